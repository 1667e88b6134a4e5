"""What is measured on rows of activations: moments, norms, spectrum, duplicates."""
