"""Trained models: opens the checkpoints of a run and exports."""
