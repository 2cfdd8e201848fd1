"""Scripts that let shells complete the command line of gap_jax."""
