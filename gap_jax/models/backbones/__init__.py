"""The networks below the pooling; each gives the map after any of its stages."""
