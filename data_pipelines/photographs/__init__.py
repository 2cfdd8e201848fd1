"""Examines single photographs: their orientation, and which of them are near-duplicates."""
