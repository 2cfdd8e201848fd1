"""Checkpoints, the run's folder and its lock, signals, several processes, reports."""
