"""Joints of photographs from a detector, for people without annotators."""
