"""Files: the only place that knows HDF5, what lies in our files, checksums of content."""
