"""The control socket of a running mount.

Newline-delimited JSON over a unix socket that only its owner can open. A request is
``{"id", "method", "params"}``; it is answered by any number of ``{"id", "progress"}`` and
then one ``{"id", "result"}`` or ``{"id", "error": {"code", "message"}}``. One connection is
served one request at a time; a client that goes away ends what it asked for.
"""

import errno
import logging
import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
import trio

from csyncfs.answers import (
    CacheRow,
    ConflictRow,
    Decided,
    Evicted,
    FlushProgress,
    HeldRow,
    Status,
)
from csyncfs.errors import CsyncError, FsError

log = logging.getLogger(__name__)

# A request is a method name and a path; more is not a csyncfs client.
_LONGEST_REQUEST_BYTES = 64 * 1024

S = TypeVar("S")
Progress = Callable[[FlushProgress], Awaitable[None]]


class Steer(Protocol):
    """What can be asked of a running mount; mount.py implements it.

    Errors are CsyncError: their message goes to the user. ``path`` is relative to the
    mount's root, None is everything; an unknown one raises FsError(ENOENT).
    """

    async def status(self) -> Status: ...

    async def flush(self, wait: bool, timeout_s: float | None, progress: Progress) -> FlushProgress:
        """Send what waits now, without its delay; held changes are tried again.

        Waiting ends when nothing but held changes remains or the time is up, whichever is
        first; ``progress`` is awaited at least once a second meanwhile. It raises when the
        client is gone: let that pass.
        """
        ...

    async def cache_ls(self, path: str | None) -> list[CacheRow]: ...

    async def cache_evict(self, path: str | None) -> Evicted: ...

    async def conflicts(self, path: str | None) -> list[ConflictRow]: ...

    async def held_rows(self) -> list[HeldRow]: ...

    async def decide_held(self, accept: bool) -> Decided:
        """All that is held goes here as well, or is sent to the store again."""
        ...


class Request(msgspec.Struct):
    id: int
    method: str
    params: msgspec.Raw = msgspec.Raw(b"{}")


class Failure(msgspec.Struct):
    """``code``: bad-request, unknown-method, no-such-path, failed or internal."""

    code: str
    message: str


class FlushParams(msgspec.Struct, forbid_unknown_fields=True):
    wait: bool = False
    timeout_s: float | None = None


class PathParams(msgspec.Struct, forbid_unknown_fields=True):
    path: str | None = None


class DecideParams(msgspec.Struct, forbid_unknown_fields=True):
    accept: bool


class NoParams(msgspec.Struct, forbid_unknown_fields=True):
    pass


class _Refused(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.failure = Failure(code, message)


class ControlServer:
    """Serves ``steer`` on a unix socket at ``path`` until cancelled.

    Owns the socket's directory: makes it, and removes it with the socket.
    """

    def __init__(self, path: Path, steer: Steer) -> None:
        self._path = path
        self._steer = steer

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Started once the socket answers. A socket left by a dead mount is replaced."""
        listener = _listen(self._path)
        try:
            task_status.started()
            await trio.serve_listeners(self._serve, [trio.SocketListener(listener)])
        finally:
            self._path.unlink(missing_ok=True)
            # Now, while this mount still has the store's lock: the next one makes it anew.
            with suppress(OSError):
                self._path.parent.rmdir()

    async def _serve(self, stream: trio.SocketStream) -> None:
        try:
            async with stream:
                async for line in _lines(stream):
                    await _Connection(stream, self._steer).answer(line)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            log.debug("control client went away")


class _Connection:
    """One request of one client."""

    def __init__(self, stream: trio.SocketStream, steer: Steer) -> None:
        self._stream = stream
        self._steer = steer
        self._id = 0

    async def answer(self, line: bytes) -> None:
        try:
            request = _decode(line, Request)
            self._id = request.id
            result = await self._call(request)
        except _Refused as exc:
            await self._send(error=exc.failure)
        except FsError as exc:
            code = "no-such-path" if exc.code == errno.ENOENT else "failed"
            await self._send(error=Failure(code, str(exc)))
        except CsyncError as exc:
            await self._send(error=Failure("failed", str(exc)))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise
        except Exception as exc:  # a question must not end the mount
            log.exception("control request failed")
            await self._send(error=Failure("internal", f"{type(exc).__name__}: {exc}"))
        else:
            await self._send(result=result)

    async def _call(self, request: Request) -> Any:
        steer = self._steer
        match request.method:
            case "status":
                _decode(request.params, NoParams)
                return await steer.status()
            case "flush":
                flush = _decode(request.params, FlushParams)
                return await steer.flush(flush.wait, flush.timeout_s, self._progress)
            case "cache_ls":
                return await steer.cache_ls(_decode(request.params, PathParams).path)
            case "cache_evict":
                return await steer.cache_evict(_decode(request.params, PathParams).path)
            case "conflicts":
                return await steer.conflicts(_decode(request.params, PathParams).path)
            case "held":
                _decode(request.params, NoParams)
                return await steer.held_rows()
            case "decide_held":
                return await steer.decide_held(_decode(request.params, DecideParams).accept)
            case unknown:
                raise _Refused("unknown-method", f"this mount does not know '{unknown}'")

    async def _progress(self, progress: FlushProgress) -> None:
        await self._send(progress=progress)

    async def _send(self, **answer: object) -> None:
        await self._stream.send_all(msgspec.json.encode({"id": self._id, **answer}) + b"\n")


async def _lines(stream: trio.SocketStream) -> AsyncIterator[bytes]:
    buffer = bytearray()
    async for received in stream:
        buffer += received
        while (end := buffer.find(b"\n")) >= 0:
            yield bytes(buffer[:end])
            del buffer[: end + 1]
        if len(buffer) > _LONGEST_REQUEST_BYTES:
            return


def _decode(data: bytes | msgspec.Raw, kind: type[S]) -> S:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise _Refused("bad-request", str(exc)) from None


def _listen(path: Path) -> trio.socket.SocketType:
    """A listening socket at ``path``, usable by its owner only."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # The directory is 0700 already; the mode guards a run directory shared by hand.
        directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
        try:
            made.bind(short_address(directory, path.name))
        finally:
            os.close(directory)
        path.chmod(stat.S_IRUSR | stat.S_IWUSR)
        made.listen()
    except BaseException:
        made.close()
        raise
    return trio.socket.from_stdlib_socket(made)


def short_address(directory_fd: int, name: str) -> str:
    """An address for a socket in an open directory, however long its path is.

    The kernel takes 107 bytes; a state directory deep in a home has more.
    """
    return f"/proc/self/fd/{directory_fd}/{name}"
