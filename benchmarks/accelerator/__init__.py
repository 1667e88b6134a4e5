"""What an accelerator does: the measurements of `benchmarks/gpu.py`, and the page that it writes."""
