"""The commands of `gap_jax COMMAND`, one in each module."""
