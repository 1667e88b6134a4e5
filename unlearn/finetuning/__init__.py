"""The fine-tuning loop, early stopping, and how far a removal is."""
