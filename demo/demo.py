"""``make demo``: the main job in a minute, each step with the command a person would type.

A directory stands in for the cloud, filled with part of Python's own standard library. All of
it lives below one temporary directory, which is removed at the end; KEEP=1 leaves it mounted.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

PACKAGES = ("asyncio", "ctypes", "email", "encodings", "http", "importlib", "json", "unittest")
BIG_MIB = 64


class DemoFailed(Exception):
    """A step did not do what it promises."""


class Demo:
    """A shell in the demo's directory, and what it prints."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.store = home / "store"
        self.mnt = home / "mnt"
        programs = Path(sys.executable).parent
        self._env = {
            **os.environ,
            "CSYNCFS_HOME": str(home / "csyncfs"),
            "PATH": f"{programs}:{os.environ.get('PATH', '/usr/bin:/bin:/usr/sbin:/sbin')}",
        }

    def title(self, text: str) -> None:
        print(f"\n{_bold(text)}", flush=True)

    def run(self, command: str, *, lines: int = 8) -> str:
        """Print the command, run it, print the first lines it prints. Returns all of them."""
        print(f"{_green('$')} {command}", flush=True)
        out = self.quiet(command)
        printed = out.splitlines()
        for line in printed[:lines]:
            print(f"  {line}")
        if len(printed) > lines:
            print(f"  ... {len(printed) - lines} more lines")
        return out

    def quiet(self, command: str) -> str:
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],
            cwd=self.home,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode != 0:
            raise DemoFailed(f"'{command}' ended with {done.returncode}:\n{done.stdout}")
        return done.stdout


def _bold(text: str) -> str:
    return f"\033[1m{text}\033[0m" if sys.stdout.isatty() else text


def _green(text: str) -> str:
    return f"\033[32m{text}\033[0m" if sys.stdout.isatty() else text


def expect(is_so: bool, what: str) -> None:
    if not is_so:
        raise DemoFailed(what)


def fill_store(demo: Demo) -> None:
    demo.title("A store: a directory standing in for the cloud, with files of Python's own library")
    library = Path(sysconfig.get_path("stdlib"))
    for package in PACKAGES:
        shutil.copytree(
            library / package,
            demo.store / package,
            ignore=shutil.ignore_patterns("__pycache__", "test", "tests"),
        )
    (demo.store / "modules").mkdir()
    for module in library.glob("*.py"):
        shutil.copy(module, demo.store / "modules")
    with (demo.store / "measurements.dat").open("wb") as big:
        for _ in range(BIG_MIB):
            big.write(os.urandom(1 << 20))
    (demo.store / "notes.txt").write_text("what everybody agreed on\n")
    demo.run("find store -type f | wc -l; du -sh store")


def mount(demo: Demo) -> None:
    demo.title("Mount it. With a bucket it would be: csyncfs mount s3://BUCKET mnt")
    demo.mnt.mkdir()
    demo.run("csyncfs mount file://$PWD/store mnt -o refresh=2,upload_delay=3")
    demo.run("findmnt -o TARGET,SOURCE,FSTYPE mnt")


def listing(demo: Demo) -> None:
    demo.title("Names come from SQLite: asked once, then listed even while the store is gone")
    first = demo.run("find mnt -type f -printf '%P %s\\n' | sort > first.txt; wc -l < first.txt")
    expect(int(first) > 300, "the listing is not complete")
    demo.run("mv store store.away")
    started = time.monotonic()
    again = (
        "find mnt -type f -printf '%P %s\\n' | sort | diff first.txt - && echo same names, sizes"
    )
    demo.run(again)
    print(f"  in {(time.monotonic() - started) * 1000:.0f} ms, without the store")
    demo.run("mv store.away store")


def lazy_read(demo: Demo) -> None:
    demo.title("A read fetches what it needs, not the file")
    span = f"bs=1M skip={BIG_MIB // 2} count=1 status=none"
    demo.run(
        f"dd if=mnt/measurements.dat {span} | cmp - <(dd if=store/measurements.dat {span}) "
        "&& echo equal bytes"
    )
    out = demo.run("csyncfs-admin cache ls mnt/measurements.dat")
    expect("partial" in out, "the whole file was fetched")


def write(demo: Demo) -> None:
    demo.title("A write is safe at close, and in the store a moment later")
    demo.run("echo 'print(\"hello from csyncfs\")' > mnt/hello.py")
    demo.run("csyncfs-admin flush --wait mnt")
    demo.run("python3 store/hello.py")


def rename(demo: Demo) -> None:
    demo.title("A directory is renamed at once; the store follows")
    demo.run("mv mnt/encodings mnt/codecs && ls mnt")
    demo.run("csyncfs-admin flush --wait mnt && ls store")
    expect((demo.store / "codecs" / "utf_8.py").exists(), "the rename did not reach the store")
    expect(not (demo.store / "encodings").exists(), "the old name is still in the store")


def conflict(demo: Demo) -> None:
    demo.title("Two people change one file: both versions are kept")
    demo.run("cat mnt/notes.txt; echo 'my line, not sent yet' >> mnt/notes.txt")
    demo.run("echo 'somebody else was faster' > store/notes.txt")
    demo.run("csyncfs-admin flush --wait mnt")
    demo.run("head mnt/notes.txt*")
    demo.run("csyncfs-admin conflicts ls mnt")
    theirs, mine = demo.store / "notes.txt", list(demo.store.glob("notes.txt.*.conflict"))
    expect(theirs.read_text() == "somebody else was faster\n", "their version was overwritten")
    expect(len(mine) == 1 and "my line" in mine[0].read_text(), "our version was lost")


def finish(demo: Demo) -> None:
    demo.title("How is it?")
    demo.run("csyncfs-admin status mnt", lines=20)
    if os.environ.get("KEEP"):
        print(f"\nKept: {demo.mnt} is mounted. Look around, then:")
        print(f"  export CSYNCFS_HOME={demo.home}/csyncfs PATH={Path(sys.executable).parent}:$PATH")
        print(f"  csyncfs umount {demo.mnt} && rm -r {demo.home}")
        return
    demo.title("Unmount: nothing stays behind but the journal, and that is empty")
    demo.run("csyncfs umount mnt")
    out = demo.run("csyncfs-admin flush mnt; ls -A mnt")
    expect("nothing left to send" in out, "changes were left")


def clean_up(demo: Demo) -> None:
    """Leave no mount and no file, whatever went wrong."""
    if os.path.ismount(demo.mnt):
        subprocess.run(["umount", "-l", str(demo.mnt)], check=False, capture_output=True)
        subprocess.run(["fusermount3", "-uz", str(demo.mnt)], check=False, capture_output=True)
    shutil.rmtree(demo.home, ignore_errors=True)


def main() -> int:
    demo = Demo(Path(tempfile.mkdtemp(prefix="csyncfs-demo-")))
    started = time.monotonic()
    is_kept = False
    try:
        for step in (fill_store, mount, listing, lazy_read, write, rename, conflict, finish):
            step(demo)
        is_kept = bool(os.environ.get("KEEP"))
    except (DemoFailed, subprocess.TimeoutExpired) as exc:
        print(f"\ndemo failed: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        if not is_kept:
            clean_up(demo)
    print(f"\n{_bold('Done')} in {time.monotonic() - started:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
