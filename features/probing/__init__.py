"""What single latents say about a property of texts: k-sparse probes, split and absorbed features."""
