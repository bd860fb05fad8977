"""Uploads to any backend, and what happened to them."""

import os
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from csyncfs.backends.base import Backend, Source, Writing
from csyncfs.types import ABSENT, Attributes, Expect, Item, Location

B = TypeVar("B", bound=Backend)


@asynccontextmanager
async def connected_to(backend: B) -> AsyncGenerator[B]:
    await backend.connect()
    try:
        yield backend
    finally:
        await backend.aclose()


def writing(attributes: Attributes | None = None, put_id: str | None = None) -> Writing:
    return Writing(attributes or Attributes(), put_id or uuid.uuid4().hex, "testdevice")


class Content:
    """A file to upload, and what happened to the upload of it."""

    def __init__(self, path: Path, data: bytes) -> None:
        path.write_bytes(data)
        self.fd = os.open(path, os.O_RDWR)
        self.is_confirmed = True
        self.confirmed = 0
        self.saved: list[str] = []
        self._size = len(data)

    @property
    def source(self) -> Source:
        return Source(self.fd, self._size, self._confirm)

    async def _confirm(self) -> bool:
        self.confirmed += 1
        return self.is_confirmed

    def close(self) -> None:
        os.close(self.fd)


async def put(
    backend: Backend,
    key: str,
    content: Content,
    expect: Expect = ABSENT,
    *,
    stamp: Writing | None = None,
    resume: str | None = None,
) -> Item:
    return await backend.put(
        Location(key),
        content.source,
        stamp or writing(),
        expect,
        resume=resume,
        save_resume=content.saved.append,
    )
