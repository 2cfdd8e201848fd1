"""Turns raw files into batches with numpy, TFDS and Grain; imports neither jax nor gap_jax."""
