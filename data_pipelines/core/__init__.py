"""Errors, files, settings and fault points that all other modules import."""
