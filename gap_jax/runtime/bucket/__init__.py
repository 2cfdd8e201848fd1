"""A run's folder that is an address: its lock, its files, and the folder here that mirrors it."""
