"""QuickXorHash, the one checksum that every kind of drive tells.

160 bits: byte i is XORed in at bit 11 * i mod 160, and the length at the end. Good against damage;
whoever exchanges two blocks of a file may keep it, so it never decides alone.
"""

import base64
from typing import Final

_PERIOD: Final = 160
"""Bytes: 11 full turns, so bytes this far apart meet the same bits."""
_WIDTH: Final = 160
EMPTY: Final = "AAAAAAAAAAAAAAAAAAAAAAAAAAA="


class QuickXor:
    """Fed in order, as hashlib's."""

    def __init__(self) -> None:
        self._columns = 0
        self._length = 0

    def update(self, data: bytes | memoryview) -> None:
        begin = self._length % _PERIOD
        self._length += len(data)
        if not data:
            return
        padded = bytes(begin) + bytes(data)
        rows = -(-len(padded) // _PERIOD)
        folded = int.from_bytes(padded, "little")
        # Halves upon each other: all of it is XOR of large numbers, in C.
        while rows > 1:
            half = (rows + 1) // 2
            bits = half * _PERIOD * 8
            folded = (folded >> bits) ^ (folded & ((1 << bits) - 1))
            rows = half
        self._columns ^= folded

    def base64(self) -> str:
        """As Graph tells it."""
        mask = (1 << _WIDTH) - 1
        mixed = 0
        for at, byte in enumerate(self._columns.to_bytes(_PERIOD, "little")):
            mixed ^= byte << (11 * at % _WIDTH)
        mixed = (mixed & mask) ^ (mixed >> _WIDTH) ^ (self._length << 96)
        return base64.b64encode((mixed & mask).to_bytes(_WIDTH // 8, "little")).decode()
