"""Entities, templates and prompts; where a name stands in a prompt and the activations there."""
