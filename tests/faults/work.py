"""Programs that work on a mount, and what must be in the bucket when they have ended.

Each has a directory of its own and knows what it wrote. Nothing a program does to names, or
writes, may fail for the network; reads may, but never give other bytes.
"""

import hashlib
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

KIB: Final = 1 << 10
MIB: Final = 1 << 20
# Larger than csyncfs sends in one request.
LARGE: Final = 17 * MIB


class Worker:
    """One program."""

    def __init__(self, root: Path, name: str, seed: int, *, has_large: bool) -> None:
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        """Reads that gave other bytes than were written."""
        self._root = root
        self._name = name
        self._random = random.Random(seed)
        self._files: dict[str, bytes] = {}
        self._dirs = [name]
        self._next = 0
        (root / name).mkdir()
        if has_large:
            self._write(self._new_name(), LARGE + self._random.randrange(MIB))
        self._acts: list[tuple[Callable[[], None], int]] = [
            (self._create, 8),
            (self._overwrite, 4),
            (self._append, 3),
            (self._patch, 2),
            (self._rename, 3),
            (self._replace, 2),
            (self._unlink, 2),
            (self._mkdir, 1),
            (self._read, 14),
        ]

    def run(self, is_over: threading.Event, pause_s: float) -> None:
        acts, weights = zip(*self._acts, strict=True)
        while not is_over.is_set():
            (act,) = self._random.choices(acts, weights)
            act()
            self.counts[act.__name__.strip("_")] += 1
            time.sleep(self._random.uniform(0, 2 * pause_s))

    def expected(self) -> dict[str, str]:
        """Every file by its path, with the SHA-256 of its bytes; directories end in a slash."""
        dirs = {f"{path}/": "" for path in self._dirs}
        return {path: sha256(content) for path, content in self._files.items()} | dirs

    def read_all(self) -> None:
        """Every file, and this time each has to be readable."""
        for path, content in self._files.items():
            assert self._read_through(path) == content, path

    # -- what it does --------------------------------------------------------------------

    def _new_name(self) -> str:
        self._next += 1
        return f"{self._random.choice(self._dirs)}/f{self._next}"

    def _any_file(self) -> str | None:
        return self._random.choice(list(self._files)) if self._files else None

    def _write(self, path: str, size: int) -> None:
        content = self._random.randbytes(size)
        (self._root / path).write_bytes(content)
        self._files[path] = content

    def _create(self) -> None:
        small = self._random.random() < 0.8
        self._write(self._new_name(), self._random.randrange(40 * KIB if small else MIB))

    def _overwrite(self) -> None:
        if (path := self._any_file()) is not None:
            self._write(path, self._random.randrange(100 * KIB))

    def _append(self) -> None:
        if (path := self._any_file()) is not None:
            more = self._random.randbytes(self._random.randrange(1, 20 * KIB))
            with (self._root / path).open("ab") as file:
                file.write(more)
            self._files[path] += more

    def _patch(self) -> None:
        """Into the middle, also of what is not cached."""
        if (path := self._any_file()) is None or not self._files[path]:
            return
        before = self._files[path]
        start = self._random.randrange(len(before))
        piece = self._random.randbytes(min(5000, len(before) - start))
        with (self._root / path).open("r+b", buffering=0) as file:
            file.seek(start)
            file.write(piece)
        self._files[path] = before[:start] + piece + before[start + len(piece) :]

    def _rename(self) -> None:
        if (path := self._any_file()) is not None:
            target = self._new_name()
            (self._root / path).rename(self._root / target)
            self._files[target] = self._files.pop(path)

    def _replace(self) -> None:
        """As editors save."""
        if (path := self._any_file()) is not None:
            temporary = self._new_name()
            self._write(temporary, self._random.randrange(50 * KIB))
            (self._root / temporary).rename(self._root / path)
            self._files[path] = self._files.pop(temporary)

    def _unlink(self) -> None:
        if (path := self._any_file()) is not None:
            (self._root / path).unlink()
            del self._files[path]

    def _mkdir(self) -> None:
        if len(self._dirs) < 12:
            path = f"{self._random.choice(self._dirs)}/d{len(self._dirs)}"
            (self._root / path).mkdir()
            self._dirs.append(path)

    def _read(self) -> None:
        if (path := self._any_file()) is None:
            return
        try:
            content = self._read_through(path)
        except OSError as exc:
            self.counts[f"read: {os.strerror(exc.errno or 0)}"] += 1
            return
        if content != self._files[path]:
            self.wrong.append(f"{path}: {_difference(content, self._files[path])}")

    def _read_through(self, path: str) -> bytes:
        """Not from the kernel's own pages."""
        with (self._root / path).open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            return file.read()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _difference(read: bytes, written: bytes) -> str:
    first = next((n for n, (a, b) in enumerate(zip(read, written, strict=False)) if a != b), -1)
    return f"{len(read)} bytes for {len(written)}, the first wrong one at {first}"


def stored(client: Any, bucket: str) -> dict[str, str]:
    """What the server holds, by another client: as ``Worker.expected``."""
    found: dict[str, str] = {}
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for key in (entry["Key"] for entry in page.get("Contents", ())):
            if key.startswith(".csyncfs/"):
                continue
            body = client.get_object(Bucket=bucket, Key=key)["Body"].read()
            found[key] = "" if key.endswith("/") else sha256(body)
    return found
