"""What is measured. A workload has rows; one run on one contender gives a time for each.

Each checks what it measured: a file system that is fast because it is wrong has lost.
"""

import hashlib
import os
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from tests.bench.cloud import Cloud, Stored
from tests.bench.contenders import Contender
from tests.bench.measure import drop_pages, files_below

_MIB: Final = 1 << 20
_FIND_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    key: str
    title: str
    state: str
    """Which caches were warm, or what was waited for."""
    must_win: bool = False
    in_cloud_only: bool = False


@dataclass(frozen=True, slots=True)
class Stage:
    """A contender that was just mounted with an empty state, and its bucket if it has one."""

    contender: Contender
    cloud: Cloud | None

    @property
    def path(self) -> Path:
        return self.contender.path

    def remount(self) -> None:
        self.contender.stop()
        self.contender.start()

    def drop_pages(self, file: Path) -> None:
        """Leave the file in the contender's disk cache only."""
        drop_pages([file])
        drop_pages(files_below([self.contender.cache_dir]))


class Workload(ABC):
    """Sizes are divided by ``scale`` for a quick look."""

    name: ClassVar[str]
    changes_data: ClassVar[bool]
    """Whether a run needs data of its own."""

    def __init__(self, scale: int = 1) -> None:
        self._scale = scale

    @property
    @abstractmethod
    def rows(self) -> tuple[Row, ...]: ...

    def seed(self) -> Iterator[tuple[str, bytes]]:
        """What has to be there before: (key, content)."""
        yield from ()

    @abstractmethod
    def run(self, stage: Stage) -> dict[str, float]:
        """Seconds by row key."""


class Read(Workload):
    """One large file from its first byte to its last, in 1 MiB reads."""

    name = "read"
    changes_data = False

    def __init__(self, scale: int = 1) -> None:
        super().__init__(scale)
        self._size = 256 * _MIB // scale
        self._block = os.urandom(_MIB)

    @property
    def rows(self) -> tuple[Row, ...]:
        title = f"read {self._size // _MIB} MiB"
        return (
            Row("read cold", title, "cold: fresh mount, empty cache"),
            Row("read page cache", title, "warm: page cache"),
            Row("read disk cache", title, "warm: disk cache, pages dropped"),
        )

    def seed(self) -> Iterator[tuple[str, bytes]]:
        yield "large", self._block * (self._size // _MIB)

    def run(self, stage: Stage) -> dict[str, float]:
        file = stage.path / "large"
        cold = self._read(file)
        pages = self._read(file)
        stage.drop_pages(file)
        disk = self._read(file)
        with file.open("rb") as stream:
            assert all(piece == self._block for piece in iter(lambda: stream.read(_MIB), b""))
        return {"read cold": cold, "read page cache": pages, "read disk cache": disk}

    def _read(self, file: Path) -> float:
        buffer, total = bytearray(_MIB), 0
        begin = time.monotonic()
        fd = os.open(file, os.O_RDONLY)
        while got := os.readv(fd, [buffer]):
            total += got
        os.close(fd)
        seconds = time.monotonic() - begin
        assert total == self._size, f"{total} bytes instead of {self._size}"
        return seconds


class Create(Workload):
    """Many small new files: create, write 4 KiB, close."""

    name = "create"
    changes_data = True

    def __init__(self, scale: int = 1) -> None:
        super().__init__(scale)
        self._count = 2000 // scale
        tail = os.urandom(4088)
        self._contents = [i.to_bytes(8, "big") + tail for i in range(self._count)]

    @property
    def rows(self) -> tuple[Row, ...]:
        title = f"create+write+close {self._count:,} x 4 KiB"
        return (
            Row("create", title, "as the program sees it", must_win=True),
            Row("create settled", title, "until all are in the bucket", in_cloud_only=True),
        )

    def run(self, stage: Stage) -> dict[str, float]:
        directory = stage.path / "new"
        directory.mkdir()
        begin = time.monotonic()
        for i, content in enumerate(self._contents):
            fd = os.open(directory / f"{i:05}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            os.write(fd, content)
            os.close(fd)
        seconds = {"create": time.monotonic() - begin}
        if stage.cloud is not None:
            end = stage.cloud.wait(self._is_settled, "all new files in the bucket")
            seconds["create settled"] = end - begin
            self._check(stage.cloud)
        return seconds

    def _is_settled(self, cloud: Cloud) -> bool:
        # Cheap first: the last one is among the last to arrive.
        if cloud.size(f"new/{self._count - 1:05}") != 4096:
            return False
        return _are_there(cloud.listing("new/"), self._count)

    def _check(self, cloud: Cloud) -> None:
        found = cloud.listing("new/")
        for i, content in enumerate(self._contents):
            expected = hashlib.md5(content, usedforsecurity=False).hexdigest()
            assert found[f"new/{i:05}"].etag == expected, f"wrong content in new/{i:05}"


class Find(Workload):
    """``find -ls`` over a tree somebody else put there."""

    name = "find"
    changes_data = False

    def __init__(self, scale: int = 1) -> None:
        super().__init__(scale)
        self._directories = 100
        self._files = 50 // scale

    @property
    def rows(self) -> tuple[Row, ...]:
        title = f"find -ls, {self._directories * self._files:,} files in {self._directories} dirs"
        return (
            Row("find cold", title, "cold: fresh mount, empty state"),
            Row("find warm", title, "warm: once more"),
            Row("find remount", title, "after remount, state kept", must_win=True),
        )

    def seed(self) -> Iterator[tuple[str, bytes]]:
        for d in range(self._directories):
            for f in range(self._files):
                yield f"d{d:03}/file-{f:04}.txt", b"x" * (f % 97)

    def run(self, stage: Stage) -> dict[str, float]:
        seconds = {"find cold": self._find(stage.path), "find warm": self._find(stage.path)}
        stage.remount()
        seconds["find remount"] = self._find(stage.path)
        return seconds

    def _find(self, path: Path) -> float:
        begin = time.monotonic()
        done = subprocess.run(
            ["find", str(path), "-ls"], check=True, stdout=subprocess.PIPE, timeout=_FIND_S
        )
        seconds = time.monotonic() - begin
        shown, expected = done.stdout.count(b".txt"), self._directories * self._files
        assert shown == expected, f"find shows {shown} files instead of {expected}"
        return seconds


class Write(Workload):
    """One large new file in 1 MiB writes."""

    name = "write"
    changes_data = True

    def __init__(self, scale: int = 1) -> None:
        super().__init__(scale)
        self._blocks = 256 // scale
        self._block = os.urandom(_MIB)
        self._sha256 = hashlib.sha256(self._block * self._blocks).hexdigest()

    @property
    def rows(self) -> tuple[Row, ...]:
        title = f"write {self._blocks} MiB in 1 MiB blocks, close"
        return (
            Row("write", title, "as the program sees it"),
            Row("write settled", title, "until it is in the bucket", in_cloud_only=True),
        )

    def run(self, stage: Stage) -> dict[str, float]:
        begin = time.monotonic()
        fd = os.open(stage.path / "large", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        for _ in range(self._blocks):
            written = os.write(fd, self._block)
            assert written == _MIB, f"short write of {written} bytes"
        os.close(fd)
        seconds = {"write": time.monotonic() - begin}
        if stage.cloud is not None:
            size = self._blocks * _MIB
            end = stage.cloud.wait(
                lambda cloud: cloud.size("large") == size, "the large file in the bucket"
            )
            seconds["write settled"] = end - begin
            assert stage.cloud.sha256("large") == self._sha256, "wrong content in the bucket"
        return seconds


class Rename(Workload):
    """A directory full of files somebody else put there gets another name."""

    name = "rename"
    changes_data = True

    def __init__(self, scale: int = 1) -> None:
        super().__init__(scale)
        self._count = 2000 // scale

    @property
    def rows(self) -> tuple[Row, ...]:
        title = f"rename a directory of {self._count:,} files"
        return (
            Row("rename", title, "listed before; as the program sees it", must_win=True),
            Row("rename settled", title, "until settled in the bucket", in_cloud_only=True),
        )

    def seed(self) -> Iterator[tuple[str, bytes]]:
        for i in range(self._count):
            yield f"old/{i:05}", i.to_bytes(8, "big") * 512

    def run(self, stage: Stage) -> dict[str, float]:
        old, new = stage.path / "old", stage.path / "new"
        names = set(os.listdir(old))
        assert len(names) == self._count, f"{len(names)} files instead of {self._count}"
        begin = time.monotonic()
        old.rename(new)
        seconds = {"rename": time.monotonic() - begin}
        assert set(os.listdir(new)) == names, "names got lost"
        assert not old.exists(), "the old name is still there"
        if stage.cloud is not None:
            end = stage.cloud.wait(self._is_settled, "the renamed directory in the bucket")
            seconds["rename settled"] = end - begin
            last = next(reversed(list(self.seed())))
            expected = hashlib.sha256(last[1]).hexdigest()
            key = last[0].replace("old/", "new/")
            assert stage.cloud.sha256(key) == expected, f"wrong content in {key}"
        return seconds

    def _is_settled(self, cloud: Cloud) -> bool:
        gone = {f"old/{i:05}" for i in range(self._count)}
        if not gone.isdisjoint(cloud.listing("old/")):
            return False
        return _are_there(cloud.listing("new/"), self._count)


def _are_there(found: dict[str, Stored], count: int) -> bool:
    """Whether all the small files are; beside them there may be a directory's marker."""
    sizes = (found.get(f"new/{i:05}") for i in range(count))
    return all(item is not None and item.size == 4096 for item in sizes)


WORKLOADS: Final[tuple[type[Workload], ...]] = (Find, Rename, Create, Read, Write)
