"""Everything that touches a language model: loading, hook points, tokens, greedy answers."""
