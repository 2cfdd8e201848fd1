"""Runs the rows of the papers' tables and figures, or of a grid, and compares them."""
