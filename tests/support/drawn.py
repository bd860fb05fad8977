"""Lists of operations, drawn at random and shrunk by hypothesis."""

from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.support.operations import (
    NAMES,
    Chmod,
    Close,
    Crash,
    CrashAt,
    Create,
    Evict,
    Exchange,
    Fault,
    Flush,
    Fstat,
    Fsync,
    Ftruncate,
    Getxattr,
    Latency,
    Link,
    List,
    Look,
    Mkdir,
    Mkfifo,
    Network,
    Open,
    Patch,
    Read,
    Readlink,
    ReadWhole,
    Removexattr,
    Rename,
    RenameOver,
    Restart,
    Rmdir,
    Save,
    Setxattr,
    Sleep,
    Stat,
    Symlink,
    Truncate,
    Turn,
    Unlink,
    Utime,
    Wipe,
    Write,
)


def _name(directory: int, name: int) -> int:
    """The operand for this name in that directory."""
    return directory * len(NAMES) + name


_at = st.integers(0, 11)
_small = st.integers(0, 7)
# Mostly plain names: what is odd about a name matters seldom, what is in its place often.
_new: SearchStrategy[int] = st.one_of(
    *[st.builds(_name, st.integers(0, 3), st.integers(0, 2))] * 2,
    st.integers(0, 6 * len(NAMES) - 1),
)
_fill = st.integers(0, 99)


def _ops(*weighted: tuple[int, SearchStrategy[Any]]) -> SearchStrategy[Any]:
    return st.one_of([strategy for weight, strategy in weighted for _ in range(weight)])


_save = st.builds(Save, _new, _small, _fill)
_mkdir = st.builds(Mkdir, _new, _small)
_rename = st.builds(Rename, _at, _new)
_sleep = st.builds(Sleep, _small)

_ON_NAMES = _ops(
    (3, _save),
    (3, _mkdir),
    (4, _rename),
    (1, st.builds(Rename, _at, _new, st.just(False))),
    (3, st.builds(RenameOver, _at, _at)),
    (2, st.builds(Exchange, _at, _at)),
    (2, st.builds(Unlink, _at)),
    (2, st.builds(Rmdir, _at)),
    (1, st.builds(Symlink, _new, _small)),
    (1, st.builds(Mkfifo, _new, _small)),
    (2, st.builds(Link, _at, _new)),
    (1, st.builds(List, _at)),
    (1, st.builds(Readlink, _at)),
    (1, st.builds(Stat, _at)),
)
_ON_ATTRIBUTES = _ops(
    (2, _save),
    (1, st.builds(Chmod, _at, _small)),
    (1, st.builds(Utime, _at, _small)),
    (2, st.builds(Setxattr, _at, _small, _small)),
    (1, st.builds(Getxattr, _at, _small)),
    (1, st.builds(Removexattr, _at, _small)),
)
_ON_CONTENT = _ops(
    (2, _save),
    (2, st.builds(Patch, _at, _small, _small, _fill)),
    (2, st.builds(Open, _at, _small)),
    (2, st.builds(Create, _new, _small, _small)),
    (4, st.builds(Write, _small, _small, _small, _fill)),
    (2, st.builds(Read, _small, _small, _small)),
    (2, st.builds(Ftruncate, _small, _small)),
    (1, st.builds(Truncate, _at, _small)),
    (1, st.builds(Fsync, _small)),
    (1, st.builds(Fstat, _small)),
    (2, st.builds(Close, _small)),
    (1, st.builds(ReadWhole, _at)),
    (1, st.builds(Unlink, _at)),
    (1, _rename),
)
_ON_SURROUNDINGS = _ops(
    (5, _sleep),
    (2, st.just(Flush())),
    (2, st.just(Evict())),
    (1, st.just(Wipe())),
    (1, st.just(Crash())),
    (1, st.builds(Restart, st.booleans())),
    (2, st.builds(CrashAt, st.integers(0, 23))),
    (1, st.just(Look())),
    (2, st.builds(Latency, _small)),
    (3, st.builds(Fault, st.integers(0, 2), _small)),
    (1, st.builds(Network, st.booleans())),
)


# What every store keeps: names and content, no attributes.
_plain = st.builds(_name, st.integers(0, 3), st.integers(0, 4))
_ON_ANY_STORE = _ops(
    (5, st.builds(Save, _plain, _small, _fill)),
    (3, st.builds(Mkdir, _plain, st.just(0))),
    (4, st.builds(Rename, _at, _plain)),
    (3, st.builds(RenameOver, _at, _at)),
    (2, st.builds(Exchange, _at, _at)),
    (3, st.builds(Unlink, _at)),
    (2, st.builds(Rmdir, _at)),
    (3, st.builds(Patch, _at, _small, _small, _fill)),
    (1, st.builds(Truncate, _at, _small)),
    (4, st.just(Turn())),
)


def _several(operation: SearchStrategy[Any]) -> SearchStrategy[list[Any]]:
    """About twenty, and any number of them may go when it shrinks."""
    # A long list is drawn as four: hypothesis keeps the average of one list near five.
    part = st.lists(operation, max_size=14)
    return st.tuples(part, part, part, part).map(_joined)


def _joined(parts: tuple[list[Any], ...]) -> list[Any]:
    return [operation for part in parts for operation in part]


def turns() -> SearchStrategy[list[Any]]:
    """Lists of what can be done on any store, on one machine and on another one."""
    return _several(_ON_ANY_STORE)


def lists(*, surroundings: bool) -> SearchStrategy[list[Any]]:
    """Lists of operations, of all kinds or about something."""
    around = [(2, _ON_SURROUNDINGS)] if surroundings else []
    topics = (
        _ops((2, _ON_NAMES), (1, _ON_ATTRIBUTES), (3, _ON_CONTENT), *around),
        _ops((3, _ON_NAMES), *around),
        _ops((1, _ON_NAMES), (4, _ON_CONTENT), *around),
        _ops((2, _ON_NAMES), (2, _ON_ATTRIBUTES), *around),
    )
    return st.one_of([_several(topic) for topic in topics])
