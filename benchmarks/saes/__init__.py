"""SAE training: speed, memory, quality, and whether the true directions are found."""
