"""Computes CRC-32C of long arrays in numpy, in parallel lanes."""

import numpy as np
from jaxtyping import UInt8, UInt32

LANE_BYTES = 1024
PIECE_LANES = 2**14  # limits the memory
SHORT_BYTES = 2**12  # a loop in Python is faster up to here
_COMPLEMENT = 0xFFFFFFFF
_POLYNOMIAL = 0x82F63B78


def _make_table() -> UInt32[np.ndarray, " 256"]:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> 1) ^ np.where(table & 1, np.uint32(_POLYNOMIAL), np.uint32(0))
    return table


def _pass_zeros() -> list[list[int]]:
    """The state after a lane of zeros, for each value of each byte of the state before."""
    states = np.arange(256, dtype=np.uint32) << np.array([[0], [8], [16], [24]], np.uint32)
    for _ in range(LANE_BYTES):
        states = _TABLE[states & 255] ^ (states >> 8)
    return states.tolist()


_TABLE = _make_table()
_NUMBERS: list[int] = _TABLE.tolist()
_ZEROS = _pass_zeros()


def crc32c(content: bytes | UInt8[np.ndarray, " n"]) -> int:
    """The checksum of LevelDB and TensorFlow, before they mask it.

    The state is linear in the bytes: after a lane it is that of the lane alone, from a state of
    zero, plus that of the bytes before, run over as many zeros as the lane is long.
    """
    values = np.frombuffer(content, np.uint8)
    head = len(values) if len(values) <= SHORT_BYTES else len(values) % LANE_BYTES
    state = _COMPLEMENT
    for byte in values[:head].tolist():
        state = _NUMBERS[(state ^ byte) & 255] ^ (state >> 8)
    lanes = values[head:].reshape(-1, LANE_BYTES)
    first, second, third, fourth = _ZEROS
    for start in range(0, len(lanes), PIECE_LANES):
        piece = lanes[start : start + PIECE_LANES]
        alone = np.zeros(len(piece), np.uint32)
        for column in piece.T:
            alone = _TABLE[(alone ^ column) & 255] ^ (alone >> 8)
        for lane in alone.tolist():
            before = first[state & 255] ^ second[state >> 8 & 255]
            state = lane ^ before ^ third[state >> 16 & 255] ^ fourth[state >> 24]
    return state ^ _COMPLEMENT
