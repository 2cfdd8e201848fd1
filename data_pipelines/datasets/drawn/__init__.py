"""Renders the embedded data sets: people and things drawn from random numbers."""
