"""The networks below the pooling; each returns the map after any of its stages."""
