"""Top floor: the `wb` command line. Options in, one call into the floors below, one rendering out."""
