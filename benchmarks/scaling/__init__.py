"""Analyses the collectives of a step, and simulates more devices."""
