"""What can be measured from outside: processes' CPU and memory, resident pages of files."""

import os
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_DROP_CACHES: Final = Path("/proc/sys/vm/drop_caches")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a daemon and its children took."""

    cpu_s: float = 0.0
    peak_rss_bytes: int = 0
    """Sum of each process's own peak: an upper bound, shared pages counted each time."""

    def then(self, later: "Usage") -> "Usage":
        """Of two lives of one daemon: all the CPU, the higher peak."""
        return Usage(self.cpu_s + later.cpu_s, max(self.peak_rss_bytes, later.peak_rss_bytes))


def usage_of(pid: int) -> Usage:
    """Of the process and its living children; CPU also of those that ended."""
    cpu_s, peak = 0.0, 0
    for one in _tree(pid):
        try:
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            status = Path(f"/proc/{one}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        # utime, stime, and the same of children that were waited for
        cpu_s += sum(int(field) for field in fields[11:15]) / _TICKS
        high_water = next((x for x in status.splitlines() if x.startswith("VmHWM:")), "VmHWM: 0")
        peak += int(high_water.split()[1]) * 1024
    return Usage(cpu_s, peak)


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found = children.read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        for child in found:
            yield from _tree(int(child))


def drop_pages(files: Iterable[Path]) -> None:
    """Take files out of the page cache; an assertion fails if they stay there.

    One that is gone meanwhile is left out: daemons keep temporary files beside the others.
    """
    for file in files:
        try:
            left = _drop_pages(file)
        except FileNotFoundError:
            continue
        assert left == 0, f"{left} bytes of {file} stay in the page cache"


def _drop_pages(file: Path) -> int:
    """How many bytes stay; not counted up to a tenth, which somebody else may be reading."""
    fd = os.open(file, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        left = resident_bytes(Path(f"/proc/{os.getpid()}/fd/{fd}"))
        return left if left > os.fstat(fd).st_size // 10 else 0
    finally:
        os.close(fd)


def resident_bytes(file: Path) -> int:
    """How much of the file the page cache holds."""
    command = ["fincore", "--bytes", "--noheadings", "--raw", "--output", "RES", str(file)]
    return int(subprocess.run(command, check=True, capture_output=True).stdout)


def files_below(directories: Iterable[Path]) -> list[Path]:
    """Regular files, written back to the disk so that their pages can be dropped."""
    found = (file for directory in directories for file in directory.rglob("*"))
    return [file for file in found if not file.is_symlink() and file.is_file() and _synced(file)]


def _synced(file: Path) -> bool:
    """False: it is gone, as a daemon's temporary files may be at any time."""
    try:
        fd = os.open(file, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    return True


def drop_entries() -> bool:
    """Empty the kernel's caches of names and inodes; False where that is not permitted.

    Not its page cache: that holds the server's data, which is nobody's to warm up again.
    """
    os.sync()
    try:
        _DROP_CACHES.write_text("2")
    except OSError:
        return False
    return True
