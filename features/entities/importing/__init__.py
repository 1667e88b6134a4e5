"""What all formats of other benchmarks share: files as rows, names in texts, forms of questions, the result."""
