"""Statistics of latents: probes, separation, tests, permutation, scores, intervals."""
