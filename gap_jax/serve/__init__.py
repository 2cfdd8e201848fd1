"""Serves a page on which photographs are dropped and models answer."""
