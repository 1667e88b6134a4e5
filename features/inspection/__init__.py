"""`wb inspect`: what our HDF5 files hold, and what has to be true of them."""
