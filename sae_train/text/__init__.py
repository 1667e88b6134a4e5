"""Text: documents, tokens, chat templates, windows of tokens, short sequences packed in rows."""
