"""Entities, templates and prompts; which tokens are the name, and the activations at these tokens."""
