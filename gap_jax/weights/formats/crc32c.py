"""Computes CRC-32C of long arrays in numpy: lanes in parallel, then merged in pairs."""

import numpy as np
from jaxtyping import UInt8, UInt32

LANE_BYTES = 1024  # a power of two
PIECE_BYTES = 2**24  # limits the memory
SHORT_BYTES = 2**12  # a loop in Python is faster up to here
_COMPLEMENT = 0xFFFFFFFF
_POLYNOMIAL = 0x82F63B78
_BITS = np.uint32(1) << np.arange(32, dtype=np.uint32)


def _make_table() -> UInt32[np.ndarray, " 256"]:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> 1) ^ np.where(table & 1, np.uint32(_POLYNOMIAL), np.uint32(0))
    return table


_TABLE = _make_table()
_NUMBERS: list[int] = _TABLE.tolist()


def crc32c(content: bytes | UInt8[np.ndarray, " n"]) -> int:
    """The checksum of LevelDB and TensorFlow, before they mask it."""
    values = np.frombuffer(content, np.uint8) if isinstance(content, bytes) else content
    if len(values) <= SHORT_BYTES:
        return _byte_by_byte(values)
    state = np.array([_COMPLEMENT], np.uint32)
    for start in range(0, len(values), PIECE_BYTES):
        piece = values[start : start + PIECE_BYTES]
        state = _apply(_run_zeros(len(piece)), state) ^ _run(piece)
    return int(state[0] ^ np.uint32(_COMPLEMENT))


def _byte_by_byte(values: UInt8[np.ndarray, " n"]) -> int:
    state = _COMPLEMENT
    for byte in values.tolist():
        state = _NUMBERS[(state ^ byte) & 255] ^ (state >> 8)
    return state ^ _COMPLEMENT


def _run(values: UInt8[np.ndarray, " n"]) -> UInt32[np.ndarray, " 1"]:
    """The state after the values, from a state of zero.

    The state is linear in the values, and leading zeros do not change it. So the values are padded
    in front to whole lanes, the lanes run in parallel, and neighbours are merged: the left state
    runs over as many zeros as the right lane is long, and the two are added.
    """
    lanes = 1 << max(0, (len(values) - 1) // LANE_BYTES).bit_length()
    padded = np.zeros(lanes * LANE_BYTES, np.uint8)
    padded[lanes * LANE_BYTES - len(values) :] = values
    state = np.zeros(lanes, np.uint32)
    for column in padded.reshape(lanes, LANE_BYTES).T:
        state = _step(state, column)
    shift = _run_zeros(LANE_BYTES)
    while len(state) > 1:
        state = _apply(shift, state[0::2]) ^ state[1::2]
        shift = _apply(shift, shift)
    return state


def _step(
    state: UInt32[np.ndarray, " n"], byte: UInt8[np.ndarray, " n"]
) -> UInt32[np.ndarray, " n"]:
    return _TABLE[(state ^ byte) & 255] ^ (state >> 8)


def _run_zeros(count: int) -> UInt32[np.ndarray, " 32"]:
    """The state of each single bit after `count` bytes of zero."""
    power, result = _step(_BITS, np.zeros(32, np.uint8)), _BITS
    while count:
        if count & 1:
            result = _apply(power, result)
        power = _apply(power, power)
        count >>= 1
    return result


def _apply(
    matrix: UInt32[np.ndarray, " 32"], state: UInt32[np.ndarray, " n"]
) -> UInt32[np.ndarray, " n"]:
    result = np.zeros_like(state)
    for bit in range(32):
        result ^= np.where((state >> bit) & 1, matrix[bit], np.uint32(0)).astype(np.uint32)
    return result
