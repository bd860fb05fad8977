"""Contents and their hashes."""

import base64
import functools
import hashlib
from typing import Final

_PERIOD: Final = 160
_MASK: Final = (1 << 160) - 1


class Blob:
    """One content. Its hashes are computed when somebody asks."""

    def __init__(self, data: bytes) -> None:
        self.data: Final = data

    def __len__(self) -> int:
        return len(self.data)

    @functools.cached_property
    def quick_xor(self) -> str:
        return quick_xor(self.data)

    @functools.cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @functools.cached_property
    def sha1(self) -> str:
        return hashlib.sha1(self.data, usedforsecurity=False).hexdigest().upper()


EMPTY: Final = Blob(b"")


def quick_xor(data: bytes) -> str:
    """Microsoft's quickXorHash in base64: byte i is XORed in at bit 11*i of 160, then the length.

    160 bytes of 11 bits are 11 whole turns, so rows of 160 bytes are folded on each other first,
    by halves, as big integers.
    """
    rows = -(-len(data) // _PERIOD)
    folded = int.from_bytes(data, "little")
    while rows > 1:
        half = (rows + 1) // 2
        bits = half * _PERIOD * 8
        folded = (folded >> bits) ^ (folded & ((1 << bits) - 1))
        rows = half
    total = 0
    for index, byte in enumerate(folded.to_bytes(_PERIOD, "little")):
        total ^= byte << ((11 * index) % _PERIOD)
    total = (total & _MASK) ^ (total >> 160) ^ (len(data) << 96)
    return base64.b64encode((total & _MASK).to_bytes(20, "little")).decode()
