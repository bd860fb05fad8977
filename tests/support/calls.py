"""System calls that Python does not wrap, and what tests say about failing ones."""

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

import pytest

NOREPLACE: Final = 1
EXCHANGE: Final = 2
_AT_FDCWD: Final = -100
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def refuses(code: int, call: Callable[..., object], *args: object, **more: object) -> None:
    """The call fails with exactly this errno."""
    with pytest.raises(OSError) as caught:
        call(*args, **more)
    assert caught.value.errno == code, f"{caught.value!r} is not {os.strerror(code)}"


def renameat2(source: Path, target: Path, flags: int) -> None:
    if _LIBC.renameat2(_AT_FDCWD, bytes(source), _AT_FDCWD, bytes(target), flags):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(source))


class _Dirent(ctypes.Structure):
    _fields_ = (
        ("d_ino", ctypes.c_uint64),
        ("d_off", ctypes.c_int64),
        ("d_reclen", ctypes.c_uint16),
        ("d_type", ctypes.c_uint8),
        ("d_name", ctypes.c_char * 256),
    )


_LIBC.opendir.restype = ctypes.c_void_p
_LIBC.opendir.argtypes = (ctypes.c_char_p,)
_LIBC.readdir64.restype = ctypes.POINTER(_Dirent)
_LIBC.telldir.restype = ctypes.c_long
for _name in ("readdir64", "telldir", "rewinddir", "closedir"):
    getattr(_LIBC, _name).argtypes = (ctypes.c_void_p,)
_LIBC.seekdir.argtypes = (ctypes.c_void_p, ctypes.c_long)


class DirStream:
    """opendir(3) and what belongs to it; names without ``.`` and ``..``."""

    def __init__(self, path: Path) -> None:
        self._stream = _LIBC.opendir(bytes(path))
        if not self._stream:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        _LIBC.closedir(self._stream)

    def read(self) -> bytes | None:
        """The next name; None at the end."""
        while True:
            ctypes.set_errno(0)
            entry = _LIBC.readdir64(self._stream)
            if not entry:
                if code := ctypes.get_errno():
                    raise OSError(code, os.strerror(code))
                return None
            name = bytes(entry.contents.d_name)
            if name not in (b".", b".."):
                return name

    def rest(self) -> list[bytes]:
        return list(iter(self.read, None))

    def tell(self) -> int:
        return _LIBC.telldir(self._stream)

    def seek(self, position: int) -> None:
        _LIBC.seekdir(self._stream, position)

    def rewind(self) -> None:
        _LIBC.rewinddir(self._stream)
