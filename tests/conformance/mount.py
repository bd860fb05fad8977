"""What the suite does with a backend: a put of bytes, a read into bytes, a whole listing."""

import os
import tempfile
import uuid
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from csyncfs.backends.base import Backend, Capabilities, SaveResume, Source, Writing
from csyncfs.types import ABSENT, Attributes, Expect, Item, Kind, Location, RemoteVersion, Span

NOTHING = Attributes()


async def yes() -> bool:
    return True


def ignore(_: object) -> None:
    return


def writing(attributes: Attributes = NOTHING, put_id: str | None = None) -> Writing:
    return Writing(attributes, put_id or uuid.uuid4().hex, "desk")


def version(item: Item) -> RemoteVersion:
    """The version of an item that must have one."""
    assert item.version is not None
    return item.version


@contextmanager
def file_of(content: bytes = b"") -> Generator[int]:
    """A descriptor of a file with this content, positioned at its end."""
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        yield file.fileno()


@dataclass(frozen=True, slots=True)
class Mount:
    """A connected backend."""

    backend: Backend
    can: Capabilities

    def needs(self, capability: str) -> None:
        """Skip the test unless the store declares this."""
        if not getattr(self.can, capability):
            pytest.skip(f"{self.can.name} declares no {capability}")

    async def parents(self, key: str) -> None:
        """Make the directories above a key, where the store wants them."""
        if self.can.real_dirs:
            names = key.removesuffix("/").split("/")[:-1]
            for count in range(1, len(names) + 1):
                await self.backend.make_dir(Location("/".join(names[:count]) + "/"), writing())

    async def put(
        self,
        key: str,
        content: bytes,
        expect: Expect = ABSENT,
        *,
        stamp: Writing | None = None,
        confirm: Callable[[], Awaitable[bool]] = yes,
        resume: str | None = None,
        save_resume: SaveResume = ignore,
    ) -> Item:
        await self.parents(key)
        with file_of(content) as fd:
            return await self.backend.put(
                Location(key),
                Source(fd, len(content), confirm),
                stamp or writing(),
                expect,
                resume=resume,
                save_resume=save_resume,
            )

    async def head(self, key: str, kind: Kind = Kind.FILE) -> Item:
        return await self.backend.head(Location(key), kind)

    async def read(self, key: str, expect: RemoteVersion | None = None) -> bytes:
        """The whole content of a version, the current one by default."""
        expect = expect or version(await self.head(key))
        with file_of() as fd:
            span = Span(0, expect.size)
            await self.backend.fetch(Location(key), span, fd, expect, ignore)
            return os.pread(fd, expect.size + 1, 0)

    async def listed(self, key: str = "") -> list[Item]:
        """Every child of a directory, page after page."""
        items: list[Item] = []
        token: str | None = None
        while True:
            page = await self.backend.list_page(Location(key), token)
            items += page.items
            token = page.token
            if token is None:
                return items

    async def names(self, key: str = "") -> list[str]:
        """The keys of the children, sorted; a repeated one shows up twice."""
        return sorted(item.location.key for item in await self.listed(key))
