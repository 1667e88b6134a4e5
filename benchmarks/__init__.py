"""Benchmarks, a folder a topic: every figure in docs/results is made again by one of these scripts.

They are run from the root of a checkout, `python -m benchmarks.store.activation_store` for one.
"""
