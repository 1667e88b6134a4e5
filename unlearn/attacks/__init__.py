"""Attacks of an audit: one file each. What brings forgotten knowledge back, beside entities that were never known."""
