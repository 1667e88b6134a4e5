"""Losses that methods share: divergence, retention, the guard against relearning, the closed-form solver."""
