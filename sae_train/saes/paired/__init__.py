"""SAEs whose rows are two activations side by side: transcoders (input and output), crosscoders (before and after)."""
