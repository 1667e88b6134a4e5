"""All latents of an SAE on the text of an activation store: examples, rates, relatives, explanations."""
