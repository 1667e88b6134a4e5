"""Runs: claimed outputs, hashes, seeds, checkpoints, logs, processes and threads."""
