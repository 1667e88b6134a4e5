"""The fine-tuning loop, early stopping, validation, and the change of the model."""
