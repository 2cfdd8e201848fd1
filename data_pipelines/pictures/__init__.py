"""Data made visible: skeletons on images, batches as grids, pages of both."""
