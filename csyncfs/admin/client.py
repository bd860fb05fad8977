"""Talks to the control socket of a running mount; synchronous, one question at a time."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from csyncfs.answers import CacheRow, ConflictRow, Decided, Evicted, FlushProgress, HeldRow, Status
from csyncfs.control import Failure, short_address
from csyncfs.errors import CsyncError

# A mount that lives answers in milliseconds; one busy with a huge listing in seconds.
_ANSWER_S = 20.0

A = TypeVar("A")


class MountDown(CsyncError):
    """No mount serves this socket."""


class MountSilent(CsyncError):
    """A mount is there and does not answer."""


class MountRefuses(CsyncError):
    """The mount's own word on why not; ``code`` as in ``control.Failure``."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.code = failure.code


class _Answer(msgspec.Struct):
    id: int
    # A union with None would not stay raw; what is not there is empty.
    progress: msgspec.Raw = msgspec.Raw()
    result: msgspec.Raw = msgspec.Raw()
    error: Failure | None = None


class Client:
    """One connection. Raises MountDown where nobody listens."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(_ANSWER_S)
        self._asked = 0
        try:
            self._connect(path)
        except BlockingIOError as exc:
            # the kernel's queue of a process that accepts nobody is full
            raise MountSilent("the mount does not answer") from exc
        except OSError as exc:
            self._socket.close()
            raise MountDown(f"no mount answers at {path}") from exc
        self._answers = self._socket.makefile("rb")

    def _connect(self, path: Path) -> None:
        directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
        try:
            self._socket.connect(short_address(directory, path.name))
        finally:
            os.close(directory)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._answers.close()
        self._socket.close()

    def status(self) -> Status:
        return self._ask("status", {}, Status)

    def flush(
        self,
        *,
        wait: bool,
        timeout_s: float | None,
        on_progress: Callable[[FlushProgress], None],
    ) -> FlushProgress:
        params = {"wait": wait, "timeout_s": timeout_s}
        return self._ask("flush", params, FlushProgress, on_progress)

    def cache_ls(self, path: str | None) -> list[CacheRow]:
        return self._ask("cache_ls", {"path": path}, list[CacheRow])

    def cache_evict(self, path: str | None) -> Evicted:
        return self._ask("cache_evict", {"path": path}, Evicted)

    def conflicts(self, path: str | None) -> list[ConflictRow]:
        return self._ask("conflicts", {"path": path}, list[ConflictRow])

    def held(self) -> list[HeldRow]:
        return self._ask("held", {}, list[HeldRow])

    def decide_held(self, *, accept: bool) -> Decided:
        return self._ask("decide_held", {"accept": accept}, Decided)

    def _ask(
        self,
        method: str,
        params: dict[str, Any],
        kind: type[A],
        on_progress: Callable[[FlushProgress], None] | None = None,
    ) -> A:
        self._asked += 1
        request = {"id": self._asked, "method": method, "params": params}
        try:
            self._socket.sendall(msgspec.json.encode(request) + b"\n")
            while True:
                answer = self._read()
                if not bytes(answer.progress):
                    return _result(answer, kind)
                if on_progress is not None:
                    on_progress(msgspec.json.decode(answer.progress, type=FlushProgress))
        except TimeoutError as exc:
            raise MountSilent("the mount does not answer") from exc
        except OSError as exc:
            raise MountDown("the mount ended") from exc
        except msgspec.MsgspecError as exc:
            raise MountRefuses(Failure("internal", f"answer not understood: {exc}")) from exc

    def _read(self) -> _Answer:
        line = self._answers.readline()
        if not line.endswith(b"\n"):
            raise MountDown("the mount ended")
        return msgspec.json.decode(line, type=_Answer)


def _result(answer: _Answer, kind: type[A]) -> A:
    if answer.error is not None:
        raise MountRefuses(answer.error)
    return msgspec.json.decode(answer.result, type=kind)
