"""Reads and writes weights: our own files, and conversion of other libraries' files."""
