"""Names and attributes on real mounts: renames, directories, links, times, owners, xattrs.

As in ``test_posix``, the fixture ``settled`` compares what a test leaves behind with the store
and looks for it again after a wiped cache.
"""

import errno
import os
import shutil
import socket
import stat
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.kernel.conftest import Place
from tests.support.calls import EXCHANGE, NOREPLACE, DirStream, refuses, renameat2
from tests.support.trees import look

pytestmark = pytest.mark.usefixtures("settled")

_WHITEOUT = 4


def _tree(root: Path, *names: str) -> None:
    """Files with their own name as content; a name that ends in a slash is a directory."""
    for name in names:
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)


# -- renames ---------------------------------------------------------------------------------


@pytest.mark.parametrize("is_in_cloud", [False, True], ids=["fresh", "in cloud"])
def test_renames_that_must_fail_change_nothing(place: Place, is_in_cloud: bool) -> None:
    root = place.path
    _tree(root, "file", "other", "dir/inner/deep", "full/x", "empty/")
    if is_in_cloud:
        place.mount.flush()
    before = look(root)
    for source, target, code in (
        ("none", "new", errno.ENOENT),
        ("file", "none/new", errno.ENOENT),
        ("file", "other/new", errno.ENOTDIR),
        ("file", "empty", errno.EISDIR),
        ("dir", "file", errno.ENOTDIR),
        ("dir", "full", errno.ENOTEMPTY),
        ("dir", "dir/inner/below", errno.EINVAL),
        ("dir", "dir/inner/deep/below", errno.ENOTDIR),
        ("dir/inner", "dir", errno.ENOTEMPTY),
        ("file", "n" * 256, errno.ENAMETOOLONG),
    ):
        refuses(code, os.rename, root / source, root / target)
    refuses(errno.EEXIST, renameat2, root / "file", root / "other", NOREPLACE)
    refuses(errno.EEXIST, renameat2, root / "dir", root / "empty", NOREPLACE)
    refuses(errno.ENOENT, renameat2, root / "file", root / "none", EXCHANGE)
    refuses(errno.EINVAL, renameat2, root / "dir", root / "dir/inner", EXCHANGE)
    refuses(errno.EINVAL, renameat2, root / "file", root / "other", NOREPLACE | EXCHANGE)
    refuses(errno.EINVAL, renameat2, root / "file", root / "new", _WHITEOUT)
    assert look(root) == before


def test_a_name_renamed_to_itself_stays(place: Place) -> None:
    (place.path / "f").write_text("f")
    os.rename(place.path / "f", place.path / "f")
    renameat2(place.path / "f", place.path / "new", NOREPLACE)
    assert place.stored() == {"new": b"f"}


@pytest.mark.parametrize("is_in_cloud", [False, True], ids=["fresh", "in cloud"])
def test_exchanges(place: Place, is_in_cloud: bool) -> None:
    root = place.path
    _tree(root, "a/one", "b/two", "b/sub/three", "file", "x/left", "y/right")
    if is_in_cloud:
        place.mount.flush()
    renameat2(root / "a", root / "b", EXCHANGE)
    renameat2(root / "file", root / "a", EXCHANGE)
    renameat2(root / "x/left", root / "y/right", EXCHANGE)
    assert set(os.listdir(root / "file")) == {"two", "sub"}
    assert root.stat().st_nlink == 6
    assert place.stored() == {
        "a": b"file",
        "file/two": b"b/two",
        "file/sub/three": b"b/sub/three",
        "b/one": b"a/one",
        "x/left": b"y/right",
        "y/right": b"x/left",
    }


def test_a_name_becomes_another_kind_of_thing(place: Place) -> None:
    root = place.path
    _tree(root, "a", "b/one", "c/sub/two", "d")
    place.mount.flush()
    (root / "a").unlink()
    (root / "a").mkdir()
    (root / "a/new").write_text("new")
    shutil.rmtree(root / "b")
    (root / "b").write_text("was a directory")
    (root / "c").rename(root / "t")
    (root / "d").rename(root / "c")
    (root / "t").rename(root / "d")
    assert place.stored() == {
        "a/new": b"new",
        "b": b"was a directory",
        "c": b"d",
        "d/sub/two": b"c/sub/two",
    }


def test_names_that_go_round_in_a_circle(place: Place) -> None:
    root = place.path
    _tree(root, "a", "b", "c", "d/1", "e/2")
    place.mount.flush()
    for source, target in (("a", "t"), ("b", "a"), ("c", "b"), ("t", "c")):
        (root / source).rename(root / target)
    for source, target in (("d", "t"), ("e", "d"), ("t", "e")):
        (root / source).rename(root / target)
    assert place.stored() == {"a": b"b", "b": b"c", "c": b"a", "d/2": b"e/2", "e/1": b"d/1"}


def test_a_directory_changes_while_its_rename_is_on_its_way(place: Place) -> None:
    root = place.path
    _tree(root, *(f"d/s{i % 3}/f{i}" for i in range(30)))
    place.mount.flush()
    (root / "d").rename(root / "e")
    (root / "e/s0").rename(root / "moved out")
    (root / "e/s1/f1").unlink()
    (root / "e/s1/f4").write_text("edited")
    (root / "e/s1/new").write_text("new")
    (root / "d").mkdir()
    (root / "d/f").write_text("another d")
    (root / "e").rename(root / "g")
    (root / "d").rename(root / "e")
    expected = {f"g/s{i % 3}/f{i}": f"d/s{i % 3}/f{i}".encode() for i in range(30) if i % 3}
    expected |= {f"moved out/f{i}": f"d/s0/f{i}".encode() for i in range(0, 30, 3)}
    expected |= {"g/s1/f4": b"edited", "g/s1/new": b"new", "e/f": b"another d"}
    del expected["g/s1/f1"]
    assert place.stored() == expected


def test_saves_by_rename_over_keep_one_object(place: Place) -> None:
    target = place.path / "doc"
    for i in range(40):
        temporary = place.path / f".doc.{i}.tmp"
        temporary.write_text(f"version {i}")
        temporary.rename(target)
        assert target.read_text() == f"version {i}"
        if i % 10 == 5:
            place.mount.flush()
    assert place.stored() == {"doc": b"version 39"}


# -- directories -------------------------------------------------------------------------------


def test_directories_count_their_subdirectories_and_empty_ones_stay(place: Place) -> None:
    root = place.path
    _tree(root, "a/", "b/c/d/e/", "f/")
    assert root.stat().st_nlink == 5
    (root / "f").rename(root / "b/f")
    assert (root.stat().st_nlink, (root / "b").stat().st_nlink) == (4, 4)
    place.mount.flush()
    (root / "a").rmdir()
    refuses(errno.ENOTEMPTY, os.rmdir, root / "b")
    refuses(errno.EEXIST, os.mkdir, root / "b")
    refuses(errno.ENOENT, os.mkdir, root / "none/x")
    refuses(errno.EINVAL, os.rmdir, f"{root}/b/f/.")
    refuses(errno.ENOTEMPTY, os.rmdir, f"{root}/b/f/..")
    assert root.stat().st_nlink == 3
    assert place.stored() == {}


def test_nothing_can_be_made_in_a_removed_directory(place: Place) -> None:
    gone = place.path / "gone"
    gone.mkdir()
    fd = os.open(gone, os.O_RDONLY)
    gone.rmdir()
    refuses(errno.ENOENT, os.open, "f", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
    refuses(errno.ENOENT, os.mkdir, "d", dir_fd=fd)
    refuses(errno.ENOENT, os.symlink, "t", "l", dir_fd=fd)
    assert os.listdir(fd) == []
    os.close(fd)


def test_positions_in_a_directory(place: Place) -> None:
    names = {b"f%04d" % i for i in range(700)}
    for name in names:
        os.close(os.open(os.path.join(bytes(place.path), name), os.O_CREAT | os.O_WRONLY))
    with DirStream(place.path) as stream:
        first = [stream.read() for _ in range(300)]
        middle = stream.tell()
        rest = stream.rest()
        assert len(first) + len(rest) == len(names)
        assert {*first, *rest} == names
        stream.seek(middle)
        assert stream.rest() == rest
        stream.rewind()
        assert stream.read() == first[0]
        stream.seek(middle)
        for name in (first[3], rest[-1]):
            assert name is not None
            os.unlink(os.path.join(bytes(place.path), name))
        assert stream.rest() == rest[:-1]
        (place.path / "later").touch()
        stream.rewind()
        assert set(stream.rest()) == (names - {first[3], rest[-1]}) | {b"later"}
    for name in os.listdir(bytes(place.path)):
        os.unlink(os.path.join(bytes(place.path), name))


def test_names_show_once_while_others_come_and_go(place: Place) -> None:
    stays = {f"stay-{i:04}" for i in range(600)}
    for name in stays:
        (place.path / name).touch()
    stop = threading.Event()

    def churn() -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            temporary = place.path / f"temporary-{turn}"
            temporary.write_text(str(turn))
            temporary.rename(place.path / f"stay-{turn % 600:04}")
            (place.path / f"brief-{turn}").touch()
            (place.path / f"brief-{turn}").unlink()

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(15):
            with DirStream(place.path) as stream:
                found = [os.fsdecode(name) for name in stream.rest()]
            staying = [name for name in found if name in stays]
            assert sorted(staying) == sorted(stays)
    finally:
        stop.set()
        thread.join()


# -- links and special files ---------------------------------------------------------------------


def test_symlinks_lead_where_they_say(place: Place) -> None:
    root = place.path
    _tree(root, "dir/file")
    long = "x/" * 2000 + "end"
    for link, target in (
        ("relative", "dir/file"),
        ("to dir", "dir"),
        ("dangling", "nowhere"),
        ("loop", "loop"),
        ("long", long),
        ("unicode", "größe/ü"),
    ):
        (root / link).symlink_to(target)
        assert os.readlink(root / link) == target
        assert os.lstat(root / link).st_size == len(os.fsencode(target))
    assert (root / "relative").read_text() == "dir/file"
    assert (root / "to dir" / "file").read_text() == "dir/file"
    refuses(errno.ENOENT, os.stat, root / "dangling")
    refuses(errno.ELOOP, os.stat, root / "loop")
    refuses(errno.EINVAL, os.readlink, root / "dir/file")
    refuses(errno.EEXIST, os.symlink, "other", root / "relative")
    (root / "relative").rename(root / "renamed")
    os.chown(root / "renamed", 77, 78, follow_symlinks=False)
    os.utime(root / "renamed", ns=(1, 1_500_000_000_123_456_789), follow_symlinks=False)
    assert (root / "dir/file").stat().st_uid == 0
    place.mount.flush()
    found = os.lstat(root / "renamed")
    assert (found.st_uid, found.st_gid) == (77, 78)
    assert found.st_mtime_ns == 1_500_000_000_123_456_789


def test_fifos_and_sockets_connect_processes(place: Place) -> None:
    fifo = place.path / "fifo"
    os.mkfifo(fifo, 0o640)
    with subprocess.Popen(["cat", str(fifo)], stdout=subprocess.PIPE) as reader:
        fifo.write_text("through")
        assert reader.communicate(timeout=30)[0] == b"through"
    # The path is relative: a socket's may have 107 bytes only.
    here = os.open(".", os.O_RDONLY)
    os.chdir(place.path)
    try:
        with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
            server.bind("socket")
            server.listen()
            client.connect("socket")
    finally:
        os.chdir(here)
        os.close(here)
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    assert stat.S_ISSOCK((place.path / "socket").stat().st_mode)
    fifo.unlink()
    (place.path / "socket").unlink()
    assert place.stored() == {}


# -- attributes ----------------------------------------------------------------------------------


def test_what_is_made_gets_the_umask_and_the_groups_of_setgid(place: Place) -> None:
    old = os.umask(0o027)
    try:
        (place.path / "f").touch(0o666)
        (place.path / "d").mkdir(0o777)
    finally:
        os.umask(old)
    assert stat.S_IMODE((place.path / "f").stat().st_mode) == 0o640
    assert stat.S_IMODE((place.path / "d").stat().st_mode) == 0o750
    os.chown(place.path / "d", 0, 4321)
    (place.path / "d").chmod(0o2775)
    (place.path / "d" / "f").touch()
    (place.path / "d" / "s").mkdir()
    assert (place.path / "d" / "f").stat().st_gid == 4321
    assert (place.path / "d" / "s").stat().st_gid == 4321
    assert (place.path / "d" / "s").stat().st_mode & stat.S_ISGID


def test_modes_and_owners_of_everything(place: Place) -> None:
    _tree(place.path, "f", "d/", "x/y")
    for is_in_cloud in (False, True):
        for name, mode in (("f", 0o4751), ("d", 0o1777), ("x", 0o700)):
            (place.path / name).chmod(mode)
            os.chown(place.path / name, 1000 + is_in_cloud, 2000)
            # A change of owner takes setuid and setgid off.
            (place.path / name).chmod(mode)
            found = (place.path / name).stat()
            assert stat.S_IMODE(found.st_mode) == mode
            assert (found.st_uid, found.st_gid) == (1000 + is_in_cloud, 2000)
        place.mount.flush()
    os.chown(place.path / "f", -1, 3000)
    assert ((place.path / "f").stat().st_uid, (place.path / "f").stat().st_gid) == (1001, 3000)
    with (place.path / "f").open() as file:
        os.fchmod(file.fileno(), 0o600)
        assert os.fstat(file.fileno()).st_mode & 0o777 == 0o600


def test_times(place: Place) -> None:
    file, directory = place.path / "f", place.path / "d"
    file.touch()
    directory.mkdir()
    for path in (file, directory):
        for atime, mtime in ((3, 5), (1_600_000_000_123_456_789, 4_000_000_000_987_654_321)):
            os.utime(path, ns=(atime, mtime))
            assert (path.stat().st_atime_ns, path.stat().st_mtime_ns) == (atime, mtime)
    with file.open("r+b") as opened:
        opened.write(b"x")
        opened.flush()
        os.utime(opened.fileno(), ns=(7, 1_555_555_555_555_555_555))
    assert file.stat().st_mtime_ns == 1_555_555_555_555_555_555
    place.mount.flush()
    assert file.stat().st_mtime_ns == 1_555_555_555_555_555_555
    subprocess.run(["touch", "-a", file], check=True)
    assert file.stat().st_mtime_ns == 1_555_555_555_555_555_555
    os.utime(file)
    assert abs(file.stat().st_mtime - time.time()) < 60
    (directory / "new").touch()
    assert abs(directory.stat().st_mtime - time.time()) < 60


def test_every_change_moves_the_change_time_on(place: Place) -> None:
    path = place.path / "f"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    last = os.fstat(fd).st_ctime_ns
    renamed = place.path / "g"
    for change in (
        lambda: os.write(fd, b"x"),
        lambda: os.fchmod(fd, 0o600),
        lambda: os.write(fd, b"y"),
        lambda: os.fchown(fd, 5, 6),
        lambda: os.rename(path, renamed),
        lambda: os.setxattr(renamed, "user.a", b"1"),
        lambda: os.ftruncate(fd, 100),
        lambda: os.utime(renamed, ns=(1, 1)),
        lambda: os.unlink(renamed),
    ):
        change()
        now = os.fstat(fd).st_ctime_ns
        assert now > last
        last = now
    os.close(fd)


def test_extended_attributes(place: Place) -> None:
    path = place.path / "f"
    path.touch()
    os.setxattr(path, "user.name", b"one", os.XATTR_CREATE)
    refuses(errno.EEXIST, os.setxattr, path, "user.name", b"x", os.XATTR_CREATE)
    os.setxattr(path, "user.name", b"two", os.XATTR_REPLACE)
    refuses(errno.ENODATA, os.setxattr, path, "user.none", b"x", os.XATTR_REPLACE)
    os.setxattr(path, "user.bytes", bytes(range(256)))
    os.setxattr(path, "user.empty", b"")
    os.setxattr(path, "user.größe", "ü".encode())
    assert os.getxattr(path, "user.name") == b"two"
    assert os.getxattr(path, "user.bytes") == bytes(range(256))
    assert sorted(os.listxattr(path)) == ["user.bytes", "user.empty", "user.größe", "user.name"]
    os.removexattr(path, "user.empty")
    refuses(errno.ENODATA, os.removexattr, path, "user.empty")
    refuses(errno.ENODATA, os.getxattr, path, "user.empty")
    refuses(errno.ERANGE, os.setxattr, path, "user." + "n" * 251, b"")
    refuses(errno.E2BIG, os.setxattr, path, "user.large", bytes(65_537))
    refuses(errno.EOPNOTSUPP, os.setxattr, path, "trusted.x", b"")
    place.mount.flush()
    os.setxattr(path, "user.after upload", b"3")
    # More than an object can carry: it stays here.
    os.setxattr(path, "user.large", bytes(2500))
    (place.path / "d").mkdir()
    os.setxattr(place.path / "d", "user.dir", b"d")


# -- names -----------------------------------------------------------------------------------------


def test_names_of_all_kinds(place: Place) -> None:
    names = [
        "größe.txt",
        "e\u0301",
        "\u00e9",
        "日本語",
        "😀",
        "with space",
        " leading and trailing ",
        "tab\tand\nnewline",
        "+%&?#;=@:,$!'()*~^[]{}|`\"<>",
        "%2F",
        "a%00b",
        "..hidden",
        "...",
        "-rf",
        "trailing.",
        "CON",
        "A",
        "a",
        "\x01\x7f",
        "n" * 255,
        "ü" * 127,
    ]
    for name in names:
        (place.path / name).write_text(name)
    if place.is_directory:
        # SeaweedFS takes it for a slash; csyncfs holds such an upload back.
        names.append("back\\slash")
        (place.path / "back\\slash").write_text("back\\slash")
    (place.path / "dir ü").mkdir()
    (place.path / "dir ü" / "日本").write_text("x")
    assert sorted(os.listdir(place.path)) == sorted([*names, "dir ü"])
    place.mount.flush()
    for name in names:
        assert (place.path / name).read_text() == name
    refuses(errno.ENAMETOOLONG, os.open, place.path / ("ü" * 128), os.O_CREAT | os.O_WRONLY)
    refuses(errno.ENAMETOOLONG, os.mkdir, place.path / ("n" * 256))


def test_the_reserved_name_is_refused_at_the_top_only(place: Place) -> None:
    top = place.mount.path
    refuses(errno.EPERM, os.mkdir, top / ".csyncfs")
    refuses(errno.EPERM, os.open, top / ".csyncfs", os.O_CREAT | os.O_WRONLY)
    refuses(errno.EPERM, os.rename, place.path, top / ".csyncfs")
    refuses(errno.ENOENT, os.stat, top / ".csyncfs")
    assert ".csyncfs" not in os.listdir(top)
    (place.path / ".csyncfs").write_text("mine")
    assert place.stored() == {".csyncfs": b"mine"}


# -- programs that walk trees ----------------------------------------------------------------------


def test_walking_programs(place: Place) -> None:
    _tree(place.path, *(f"d{i % 5}/s{i % 3}/f{i}" for i in range(60)))
    (place.path / "link").symlink_to("d0")

    def lines(*command: str) -> list[str]:
        done = subprocess.run(
            command, cwd=place.path, check=True, capture_output=True, text=True, timeout=60
        )
        assert done.stderr == ""
        return done.stdout.splitlines()

    assert len(lines("find", ".", "-type", "f")) == 60
    assert len(lines("find", ".", "-ls")) == 60 + 15 + 5 + 1 + 1
    assert sum(".fuse_hidden" in line for line in lines("ls", "-lRa")) == 0
    assert lines("du", "-s", "--apparent-size", "--block-size=1", "d0/s0")
    free, mounted_on = lines("df", "--output=avail,target", ".")[1].split()
    assert int(free) > 0
    assert mounted_on == str(place.mount.path)
    assert lines("stat", "-f", "-c", "%l", ".") == ["255"]
