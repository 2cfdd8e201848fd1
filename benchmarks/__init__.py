"""Measurements that a person starts: `python -m benchmarks`; nothing here runs with the tests."""
