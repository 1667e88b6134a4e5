"""The top floor: the `wb` command line. It parses options, calls the floors below and prints the result."""
