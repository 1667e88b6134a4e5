"""Writing a store: how long it takes and whether it fits, who writes which part, and the writing itself."""
