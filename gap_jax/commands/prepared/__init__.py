"""The data sets of `gap_jax data prepare NAME`: their arguments, and calls of data_pipelines."""
