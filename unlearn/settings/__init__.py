"""Method-specific settings, a file a family, and their registry. Imports no torch."""
