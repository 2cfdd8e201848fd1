"""Renders the embedded data sets: people and things drawn from random numbers."""

DRAWN_DATA = ("people", "objects", "crowd")  # names of data sets
