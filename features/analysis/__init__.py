"""What `latents.h5` holds: the analysis, its tables, causal results, max-activating contexts."""
