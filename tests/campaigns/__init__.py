"""Longer checks with a target of their own in the Makefile; `make test` runs none of them."""
