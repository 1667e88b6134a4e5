"""Mining: from activations at names to the latents that tell known from unknown entities."""
