"""A run whose workdir is the address of a bucket: its lock, its small files, a folder for them."""
