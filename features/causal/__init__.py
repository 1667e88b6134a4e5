"""Causal checks: activation patching (the gate) and steering."""
