"""Entities from the files of other benchmarks: one module a format, and a registry."""
