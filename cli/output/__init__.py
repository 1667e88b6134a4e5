"""What commands print: results on stdout as tables or one JSON object, notes on stderr."""
