"""The activation store: speed, size, and what kills and flipped bits do to it."""
