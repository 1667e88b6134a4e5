"""The activation store: written from a language model, opened and checked, sampled in shuffled batches."""
