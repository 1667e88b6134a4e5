"""The analysis of latents and its file `latents.h5`: tables, causal results, max-activating examples."""
