"""What several losses are made of: sums over a batch in parts, dead latents, latents that fire too often."""
