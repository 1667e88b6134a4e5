"""Training of SAEs: one trainer, its state, its step, several at once."""
