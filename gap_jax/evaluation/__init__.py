"""Scores examples and computes metrics from the scores."""
