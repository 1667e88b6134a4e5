"""Storage: HDF5 files, their contents, and checksums. The only package that knows HDF5."""
