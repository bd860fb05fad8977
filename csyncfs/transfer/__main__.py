"""Entry of the transfer process: ``python -m csyncfs.transfer FD [NAME]``.

Lives exactly as long as the other end of the socket FD: at EOF it is gone, whatever its
threads do. What it sent later would surprise the next mount of the store. Secrets reach it
through the AWS chain of its own environment, never through arguments or messages.
"""

import contextlib
import logging
import os
import resource
import signal
import socket
import sys
from typing import Final

import trio

from csyncfs.transfer.factory import make_backend
from csyncfs.transfer.faults import describe
from csyncfs.transfer.server import Make, serve_spec

log = logging.getLogger("csyncfs.transfer")

# Uploads in the background must not slow down the programs they are in the background of. A
# machine with an idle core gives it up all the same.
_NICE: Final = 10


def main(argv: list[str], make: Make = make_backend) -> None:
    _settle(argv[2] if len(argv) > 2 else "csyncfs-transfer")
    status = 0
    try:
        sock = socket.socket(fileno=int(argv[1]))
        trio.run(serve_spec, sock, make, _at_eof)
    except BaseException as exc:  # noqa: BLE001
        log.critical("transfer process failed error=%s", describe(exc))
        status = 1
    # Threads may still hang in a dead connection; nothing they could do is wanted any more.
    os._exit(status)


def _settle(name: str) -> None:
    """Signals, limits, logs and the name that ``top`` shows."""
    # Ctrl-C is for the mount process, which then drains its uploads through this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, max(_NICE, os.getpriority(os.PRIO_PROCESS, 0)))
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    with contextlib.suppress(OSError), open("/proc/self/comm", "w") as comm:
        comm.write(name)
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine(f"{name}[%(process)d] %(levelname)s %(message)s"))
    # SDKs log requests with their signatures below WARNING.
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("csyncfs").setLevel(logging.INFO)


class _OneLine(logging.Formatter):
    """One record, one line, also where a record holds a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        return " | ".join(super().format(record).splitlines())


def _at_eof() -> None:
    """Who asked is gone. All that is not done is in its journal."""
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv)
