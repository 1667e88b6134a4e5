"""The machine at hand: what it multiplies at a useful speed, and what it is."""
