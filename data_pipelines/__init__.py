"""From raw files to batches: numpy, TFDS, Grain, image decoding; names neither jax nor gap_jax."""
