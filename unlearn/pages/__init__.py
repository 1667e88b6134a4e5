"""The audit's HTML page and its figures."""
