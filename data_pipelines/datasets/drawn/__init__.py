"""Renders the embedded data sets: people and things drawn from random numbers."""

DRAWN_DATA = ("people", "objects")  # names of data sets
