"""Running things: output claims, hashes, seeds, checkpoints, logs, processes and threads."""
