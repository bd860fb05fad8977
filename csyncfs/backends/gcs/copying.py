"""Server-side copies, of any size, with new attributes."""

from dataclasses import dataclass
from typing import Any, Final

from csyncfs.backends.attempt import Attempt
from csyncfs.backends.base import Writing
from csyncfs.backends.gcs import items, looking
from csyncfs.backends.gcs.commit import Commits
from csyncfs.backends.gcs.uploading import object_path
from csyncfs.backends.gcs.wire import Wire
from csyncfs.errors import Retry, VersionMismatch
from csyncfs.types import Expect, Item, Kind, RemoteVersion

# One call copies for as long as the server likes, half a minute as a rule.
_SLOW_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Copy:
    """One copy to be made."""

    source: str
    target: str
    writing: Writing
    expect_source: RemoteVersion
    expect_target: Expect


async def copy(wire: Wire, commits: Commits, order: Copy) -> Item:
    """See Backend.copy."""
    source, target = wire.options.object_name(order.source), wire.options.object_name(order.target)
    before = await looking.resource_of(wire, source, fields=items.KEPT_FIELDS)
    if items.tag_of(before) != order.expect_source.tag:
        raise VersionMismatch("somebody else changed the source")
    words = {
        **items.foreign(items.words_of(before)),
        **items.stamps(order.writing, target),
    }
    body = {**items.kept(before), "metadata": words}
    query = {
        "sourceGeneration": str(before["generation"]),
        **items.condition(order.expect_source, "ifSource"),
        **items.condition(order.expect_target),
        "projection": "noAcl",
        "fields": f"done,rewriteToken,resource({items.FIELDS})",
    }
    attempt = Attempt(
        order.target, Kind.FILE, order.expect_target, order.writing.put_id, is_copy=True
    )
    return await commits.make(attempt, lambda: _rewrite(wire, source, target, query, body))


async def _rewrite(
    wire: Wire, source: str, target: str, query: dict[str, str], body: dict[str, Any]
) -> items.Resource:
    """As many calls as it takes; nothing is to be seen before the last one."""
    bucket = wire.options.bucket
    path = f"{object_path(source)}/rewriteTo/b/{bucket}{object_path(target)}"
    token = ""
    while True:
        asked = {**query, "rewriteToken": token} if token else query
        reply = await wire.change("copying", "POST", path, asked, body, slow_s=_SLOW_S)
        if reply.get("done"):
            made: items.Resource = reply.get("resource") or {}
            wire.words.note(made)
            return made
        token = str(reply.get("rewriteToken") or "")
        if not token:
            raise Retry("the server did not say how the copy goes on")
