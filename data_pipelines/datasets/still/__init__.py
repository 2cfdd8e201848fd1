"""Reads the formats of data sets of still images: HICO, Stanford40, Pascal VOC's actions."""
