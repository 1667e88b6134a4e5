"""Removals: methods, settings, sequences, the demo over seeds, a real language model."""
