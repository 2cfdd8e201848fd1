"""Measures the extraction of maps from a frozen backbone, and steps of a head on stored maps."""
