"""Configs of runs; each file has get_config(variant) and imports config modules only."""
