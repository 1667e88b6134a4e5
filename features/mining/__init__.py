"""Mining: find latents that tell known from unknown entities in activations at names."""
