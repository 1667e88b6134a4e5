"""`wb inspect`: the contents of our HDF5 files, and the invariants that they must satisfy."""
