"""The independent client: puts the data there, and looks whether all of it has arrived."""

import hashlib
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple

from botocore.exceptions import ClientError

_THREADS: Final = 8
_SETTLED_S: Final = 240.0
# One listing of 2,000 keys takes the server some 20 ms: looking must not slow what is looked at.
_LOOK_EVERY_S: Final = 0.2


class Stored(NamedTuple):
    size: int
    etag: str


class Cloud:
    """One bucket, as any other program sees it."""

    def __init__(self, client: Any, bucket: str) -> None:
        self._client = client
        self.bucket = bucket

    def put_all(self, files: Iterable[tuple[str, bytes]]) -> None:
        def put(file: tuple[str, bytes]) -> None:
            self._client.put_object(Bucket=self.bucket, Key=file[0], Body=file[1])

        with ThreadPoolExecutor(_THREADS) as pool:
            for _ in pool.map(put, files):
                pass

    def listing(self, prefix: str) -> dict[str, Stored]:
        """Every object below the prefix, markers of directories included."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=prefix
        )
        return {
            item["Key"]: Stored(item["Size"], item["ETag"].strip('"'))
            for page in pages
            for item in page.get("Contents", [])
        }

    def size(self, key: str) -> int | None:
        """None: there is no such object."""
        try:
            return self._client.head_object(Bucket=self.bucket, Key=key)["ContentLength"]
        except ClientError as exc:
            if exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 404:
                return None
            raise

    def sha256(self, key: str) -> str:
        digest = hashlib.sha256()
        for piece in self._client.get_object(Bucket=self.bucket, Key=key)["Body"].iter_chunks(
            1 << 20
        ):
            digest.update(piece)
        return digest.hexdigest()

    def wait(self, is_settled: Callable[["Cloud"], bool], what: str) -> float:
        """The moment it was seen to be settled; fails with ``what`` at the deadline."""
        deadline = time.monotonic() + _SETTLED_S
        while True:
            if is_settled(self):
                return time.monotonic()
            assert time.monotonic() < deadline, f"not in {_SETTLED_S:.0f} s: {what}"
            time.sleep(_LOOK_EVERY_S)  # another program's progress has no event to wait for
