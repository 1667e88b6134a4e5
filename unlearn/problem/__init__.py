"""The unlearning problem that every method gets: entity sets, partners, prompts and answers."""
