"""What a removal needs where only a name is given: kinds with their questions, other names, and unknown names."""
