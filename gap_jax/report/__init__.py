"""Writes a page on one or more runs: scores, differences and attention."""
