"""Labels and latents of known and unknown entities."""
