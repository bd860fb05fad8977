"""``mount.csyncfs``: what mount(8) runs for ``mount -t csyncfs`` and for fstab lines.

    mount.csyncfs SPEC MOUNTPOINT [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE.SUBTYPE]

Exit codes are those of mount(8).
"""

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn

from csyncfs import __version__, preflight
from csyncfs.cli import fail, run_mount
from csyncfs.options import split_list

PROGRAM = "mount.csyncfs"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        sys.exit(fail(PROGRAM, f"{message} (see 'man mount.csyncfs')", preflight.USAGE))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=PROGRAM,
        description="Mount cloud storage as an ordinary folder.",
        epilog="'csyncfs mount --help' and the manual page list the options of -o.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "spec",
        metavar="SPEC",
        help="s3://BUCKET[/PREFIX], file:///PATH, ...: see csyncfs mount --help",
    )
    add("mountpoint", metavar="MOUNTPOINT", type=Path)
    add("-o", dest="options", action="append", default=[], metavar="OPTIONS")
    add("-f", dest="fake", action="store_true", help="check everything, do not mount")
    add("-n", dest="no_mtab", action="store_true", help="ignored: csyncfs writes no mtab")
    add("-s", dest="sloppy", action="store_true", help="skip options that are not known")
    add("-v", dest="verbose", action="store_true", help="say what is mounted")
    add("-r", dest="read_only", action="store_true", help="same as -o ro")
    add("-w", dest="writable", action="store_true", help="same as -o rw")
    add("-N", dest="namespace", metavar="NAMESPACE", help="mount in this mount namespace")
    add("-t", dest="type", metavar="TYPE", help="csyncfs or fuse.csyncfs")
    add("-V", "--version", action="version", version=f"csyncfs {__version__}")
    return parser


def run(argv: list[str]) -> int:
    given = _parser().parse_args(argv)
    if given.type not in (None, "csyncfs", "fuse.csyncfs"):
        return fail(PROGRAM, f"type {given.type} is not csyncfs", preflight.USAGE)
    if given.namespace is not None:
        return _enter(given.namespace, argv)
    lists = [*given.options, *(["ro"] if given.read_only else ["rw"] if given.writable else [])]
    code = run_mount(
        PROGRAM,
        given.spec,
        given.mountpoint,
        lists,
        is_fake=given.fake,
        is_sloppy=given.sloppy,
    )
    if code == 0 and given.verbose:
        words = ",".join(word for text in lists for word in split_list(text))
        print(f"{PROGRAM}: {given.spec} mounted on {given.mountpoint} ({words})")
    return code


def _enter(namespace: str, argv: list[str]) -> int:
    """Run again in another mount namespace: that of a process, or of a file."""
    where = ["-t", namespace, "-m"] if namespace.isdecimal() else [f"--mount={namespace}"]
    rest = list[str]()
    words = iter(argv)
    for word in words:
        if word == "-N":
            next(words)
        elif not word.startswith("-N"):
            rest.append(word)
    again = [sys.executable, "-I", "-m", "csyncfs.mount_helper", *rest]
    try:
        os.execvp("nsenter", ["nsenter", *where, "--", *again])
    except OSError as exc:
        return fail(PROGRAM, f"cannot run nsenter: {exc.strerror}", preflight.SYSTEM)


def main() -> None:
    try:
        sys.exit(run(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(preflight.INTERRUPTED)


if __name__ == "__main__":
    main()
