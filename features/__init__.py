"""First floor: which latents know an entity. Entities, labels, statistics, the embedded world. May import sae_train."""
