"""A trained model opened again: for exact evaluation, and to leave the run it came from."""
