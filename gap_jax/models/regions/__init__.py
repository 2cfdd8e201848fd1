"""Scores of people and of regions of a picture, from the map of the whole picture."""
