"""Holds one module per data set, which reads or draws its files and returns its entries."""
