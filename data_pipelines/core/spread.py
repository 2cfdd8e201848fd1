"""Chooses frames of a video; a decoder in a child process imports it, so it imports nothing."""


def spread_frames(count: int, total: int) -> list[int]:
    """Returns the middles of `count` equal parts of `total` frames; of fewer some are repeated."""
    return [(2 * part + 1) * total // (2 * count) for part in range(count)]
