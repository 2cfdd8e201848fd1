"""Benchmarks, started with `python -m benchmarks`; the tests do not run them."""
