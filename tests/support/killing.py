"""csyncfs as it dies: its commands, with a kill -9 at the n-th passage of a named point.

    python killing.py POINT:N csyncfs ARGS...         the mount process dies there
    python killing.py POINT:N transfer FD NAME        the transfer process does

The points wrap functions of csyncfs from here; it knows nothing of them.
"""

import contextlib
import functools
import inspect
import os
import pkgutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, Final

# Name of a point: what it is a passage of. Beside a function it can be passed before or after.
MOUNT_POINTS: Final = {
    "make_dirty": "csyncfs.cache.files:ContentFiles.make_dirty",
    "make_clean": "csyncfs.cache.files:ContentFiles.make_clean",
    "create_file": "csyncfs.cache.files:ContentFiles.create_dirty",
    "remove_file": "csyncfs.cache.files:ContentFiles.remove",
    "start_put": "csyncfs.store.journal:start_put",
    "save_resume": "csyncfs.store.journal:save_resume",
    "replied": "csyncfs.transfer.client:TransferClient.put",
    "copied": "csyncfs.transfer.client:TransferClient.copy",
    "deleted": "csyncfs.transfer.client:TransferClient.delete",
    "became_clean": "csyncfs.content:Content.became_clean",
    "flush": "csyncfs.content:Content.flush",
    "truncate": "csyncfs.content:Content._set_size",
    "rename": "csyncfs.tree:Tree.rename",
    "unlink": "csyncfs.tree:Tree.unlink",
    "discard": "csyncfs.content:Content.discard",
    "recover": "csyncfs.recovery:_recover_file",
    "recover_dirty": "csyncfs.recovery:_recover_dirty",
    "recover_orphans": "csyncfs.recovery:_remove_orphans",
    "checkpoint": "csyncfs.store.db:Store.checkpoint",
    "durable": "csyncfs.store.db:Store.make_durable",
}
# Requests of each SDK, and what the directory backend does in their place.
TRANSFER_POINTS: Final = {
    "sent": (
        "botocore.httpsession:URLLib3Session.send",
        "requests:Session.send",
        "httpx:AsyncClient.send",
        "csyncfs.backends.directory.commit:_rename",
    )
}
# Passed more often than anything else: the way of every change into the store.
COMMITS: Final = ("commit:before", "commit:after", "commit:hooks")
POINTS: Final = (
    *COMMITS,
    "checkpoint:during",
    *(f"{name}:{when}" for name in MOUNT_POINTS for when in ("before", "after")),
    *(f"{name}:{when}" for name in TRANSFER_POINTS for when in ("before", "after")),
)


class Fuse:
    """Kills the process at its n-th passage."""

    def __init__(self, n: int) -> None:
        self._left = n

    def __call__(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)


def command(point: str, n: int) -> tuple[str, ...]:
    """What to run instead of ``csyncfs``."""
    return (sys.executable, str(Path(__file__)), f"{point}:{n}", "csyncfs")


def _wrap(
    path: str, when: str, fuse: Fuse, counts: Callable[[tuple[Any, ...]], bool] = lambda _: True
) -> None:
    owner_path, _, name = path.rpartition("." if "." in path.partition(":")[2] else ":")
    owner: Any = pkgutil.resolve_name(owner_path)
    original: Any = getattr(owner, name)
    if inspect.iscoroutinefunction(original):

        @functools.wraps(original)
        async def passed_async(*args: Any, **kwargs: Any) -> Any:
            if when == "before" and counts(args):
                fuse()
            result = await original(*args, **kwargs)
            if when == "after" and counts(args):
                fuse()
            return result

        setattr(owner, name, passed_async)
        return

    @functools.wraps(original)
    def passed(*args: Any, **kwargs: Any) -> Any:
        if when == "before" and counts(args):
            fuse()
        result = original(*args, **kwargs)
        if when == "after" and counts(args):
            fuse()
        return result

    setattr(owner, name, passed)


def _wrap_commits(when: str, fuse: Fuse) -> None:
    from csyncfs.store.db import Store

    transaction: Any = Store.transaction
    after_commit: Any = Store.after_commit

    @contextlib.contextmanager
    def passed(self: Any, **kwargs: Any) -> Generator[None]:
        is_inner = self._db.in_transaction
        with transaction(self, **kwargs):
            yield
            if when == "before" and not is_inner:
                fuse()
        if when == "after" and not is_inner:
            fuse()

    def hooked(self: Any, change: Callable[[], None]) -> None:
        def hook() -> None:
            fuse()
            change()

        after_commit(self, hook)

    setattr(Store, "transaction", passed)  # noqa: B010
    if when == "hooks":
        setattr(Store, "after_commit", hooked)  # noqa: B010


def _die_during_checkpoint(fuse: Fuse) -> None:
    from csyncfs.store.db import Store

    checkpoint: Any = Store.checkpoint

    def passed(self: Any) -> None:
        # It takes some milliseconds: somewhere in the middle.
        timer = threading.Timer(0.0005, fuse)
        timer.daemon = True
        timer.start()
        checkpoint(self)

    setattr(Store, "checkpoint", passed)  # noqa: B010


def _arm(point: str, when: str, n: int) -> None:
    if (point, when) == ("checkpoint", "during"):
        _die_during_checkpoint(Fuse(n))
    elif point == "commit":
        _wrap_commits(when, Fuse(n))
    elif point in MOUNT_POINTS:
        _wrap(MOUNT_POINTS[point], when, Fuse(n))


def _arm_transfer(point: str, when: str, n: int) -> None:
    """Only requests that change something count."""
    fuse = Fuse(n)
    for path in TRANSFER_POINTS[point]:
        _wrap(path, when, fuse, _is_change)


def _is_change(args: tuple[Any, ...]) -> bool:
    """Requests have a method, renames have none."""
    return getattr(args[1], "method", "PUT") in ("PUT", "POST", "PATCH", "DELETE")


def _words(argv: list[str]) -> Iterator[str]:
    yield argv[0]
    yield from argv[3:]


def main(argv: list[str]) -> None:
    point, when, n = argv[1].split(":")
    sys.path.insert(0, str(Path(__file__).parents[2]))
    if argv[2] == "transfer":
        from csyncfs.transfer.__main__ import main as transfer

        _arm_transfer(point, when, int(n))
        transfer(list(_words(argv)))
        return
    from csyncfs import cli
    from csyncfs.transfer.client import TransferClient

    if point in TRANSFER_POINTS:
        child = (sys.executable, "-P", __file__, argv[1], "transfer")
        init: Any = TransferClient.__init__
        init.__kwdefaults__["command"] = child
    else:
        _arm(point, when, int(n))
    sys.argv = list(_words(argv))
    cli.main()


if __name__ == "__main__":
    main(sys.argv)
