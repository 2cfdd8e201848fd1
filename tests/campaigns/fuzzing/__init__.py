"""The cases of the fuzz campaign: mutated images, shards, files of data sets, hostile archives."""
