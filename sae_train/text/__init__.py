"""Text: documents, tokens, chat templates, windows of tokens, packing of short sequences."""
