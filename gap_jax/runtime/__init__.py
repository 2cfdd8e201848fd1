"""What keeps a run alive and honest: checkpoints, the workdir's lock, signals, reports."""
