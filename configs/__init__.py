"""Runs as Python files; each has get_config(variant) and imports config modules only."""
