"""Draws skeletons on images, grids of batches, and HTML pages of both."""
