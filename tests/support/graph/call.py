"""One request of the API with what it addresses, and the rules all operations share."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.support.graph import naming, tags
from tests.support.graph.clock import time_of
from tests.support.graph.drives import Drive, Item, Kind, Times
from tests.support.graph.failures import (
    GraphError,
    Json,
    bad_request,
    changed,
    not_found,
    not_supported,
)
from tests.support.graph.messages import Reply, Request
from tests.support.graph.routes import Route
from tests.support.graph.shapes import View, item_json
from tests.support.graph.world import World

BEHAVIOUR = "@microsoft.graph.conflictBehavior"
SOURCE_URL = "@microsoft.graph.sourceUrl"
_QUERIES = frozenset({"select", "top", "expand", "orderby", "skiptoken", "token", "count"})
_SPECIAL = {
    "approot": ("Apps", "csyncfs"),
    "documents": ("Documents",),
    "photos": ("Pictures",),
    "cameraroll": ("Pictures", "Camera Roll"),
    "music": ("Music",),
}
_REFUSED = frozenset({"skip", "search", "filter"})


@dataclass(slots=True)
class Call:
    """A request of the API host, routed."""

    world: World
    request: Request
    route: Route

    @property
    def drive(self) -> Drive:
        return self.world.drive_of(self.route.drive)

    @property
    def query(self) -> dict[str, str]:
        """With $ taken off the names of OData."""
        return {name.removeprefix("$"): value for name, value in self.request.query.items()}

    def view(self, *, is_delta: bool = False) -> View:
        select = self.query.get("select")
        chosen = None if select is None else tuple(name.strip() for name in select.split(","))
        return View(chosen, is_delta)

    # ---- what is addressed --------------------------------------------------------------

    def start(self) -> Item:
        """The item a relative path begins at. Raises GraphError."""
        if self.route.special:
            return self._special()
        item = self.drive.get(self.route.item)
        self.refuse_hidden(item)
        return item

    def item(self) -> Item:
        """The item itself. Raises GraphError."""
        start = self.start()
        if self.route.names is None:
            return start
        item = self.drive.walk(start, self.route.names)
        if item is None:
            raise not_found()
        self.refuse_hidden(item)
        return item

    def place(self) -> tuple[Item, str]:
        """Parent and name of a path. Raises GraphError."""
        names = self.route.names
        if not names:
            raise bad_request("File name not provided in url.")
        parent = self.drive.walk(self.start(), names[:-1])
        if parent is None:
            raise not_found()
        return parent, names[-1]

    def refuse_hidden(self, item: Item) -> None:
        if self.world.hides(item):
            raise not_found()

    def _special(self) -> Item:
        """Made when somebody asks for it. Raises GraphError for names the service has not."""
        name, drive = self.route.special.lower(), self.drive
        for item in drive.items.values():
            if item.special == name and not item.deleted:
                return item
        if name not in _SPECIAL:
            raise not_found()
        folder = drive.root
        for part in _SPECIAL[name]:
            folder = drive.child(folder, part) or drive.add(folder, part, Kind.FOLDER)
        folder.special = name
        return folder

    # ---- conditions ---------------------------------------------------------------------

    def check_if_match(self, item: Item) -> None:
        """Raise GraphError if the request names another version."""
        wanted = self.request.headers.get("if-match")
        if wanted is not None and not tags.names(wanted, self.drive, item):
            raise self._changed()

    def check_absent(self, item: Item | None) -> None:
        """Raise GraphError if the request wants no item there, or a version of one there."""
        headers = self.request.headers
        if item is None and headers.get("if-match") is not None:
            raise not_found()
        unwanted = headers.get("if-none-match")
        if item is not None and unwanted and tags.names(unwanted, self.drive, item):
            raise self._changed()

    def _changed(self) -> GraphError:
        if self.world.knobs.changed_as_409:
            return GraphError(409, "resourceModified", "The resource has changed.")
        return changed()

    def refuse_locked(self, item: Item) -> None:
        if item.locked_by:
            message = f"The file is locked for editing by {item.locked_by}."
            raise GraphError(423, "notAllowed", message, inner="resourceLocked")

    def refuse_full(self, size: int) -> None:
        refuse_full(self.drive, size)

    # ---- what the body says -------------------------------------------------------------

    def behaviour(self, body: Json, default: str) -> str:
        """fail, replace or rename; the query counts as well. Raises GraphError."""
        value = body.get(BEHAVIOUR) or self.request.query.get(BEHAVIOUR) or default
        if value not in ("fail", "replace", "rename"):
            raise bad_request(f"Invalid conflictBehavior {value!r}")
        return str(value)

    def check_name(self, name: object, parent: Item, *, is_folder: bool) -> str:
        """Raises GraphError."""
        drive = self.drive
        good = naming.check_name(
            name,
            is_folder=is_folder,
            is_personal=drive.is_personal,
            in_root=parent.parent is None,
        )
        above = drive.path_of(parent)
        naming.check_path(f"{above}/{good}" if above else good)
        return good

    # ---- replies ------------------------------------------------------------------------

    def reply_item(self, status: int, item: Item) -> Reply:
        drive = self.drive
        body = {"@odata.context": self.context("/$entity"), **self.shown(item)}
        return Reply.of(status, body, ETag=tags.etag(drive, item))

    def shown(self, item: Item) -> Json:
        return item_json(self.world, self.drive, item, self.view())

    def context(self, suffix: str = "") -> str:
        if not self.route.drive:
            return f"{self.world.urls.api}/$metadata#{self.route.op}"
        return f"{self.world.urls.api}/$metadata#drives('{self.drive.id}')/items{suffix}"

    def reply_list(self, values: list[Json], **links: str) -> Reply:
        named = {f"@odata.{name}": url for name, url in links.items() if url}
        return Reply.of(200, {"@odata.context": self.context(), **named, "value": values})


Handler = Callable[[Call], Reply]
Table = dict[tuple[str, str], Handler]


def refuse_full(drive: Drive, size: int) -> None:
    """Raise GraphError if so many bytes more do not fit."""
    if size > drive.remaining:
        raise GraphError(507, "quotaLimitReached", "The user has reached their quota limit.")


def check_query(request: Request) -> None:
    """Raise GraphError for options that are not supported."""
    for raw in request.query:
        name = raw.removeprefix("$")
        if name in _REFUSED and "/sites" not in request.raw_path:
            raise bad_request(f"The query option {raw!r} is not supported.")
        if raw.startswith("$") and name not in _QUERIES:
            raise bad_request(f"The query parameter {raw!r} is not supported.")


def page_size(call: Call) -> int:
    """Capped in silence. Raises GraphError."""
    text = call.query.get("top")
    if text is None:
        return call.world.knobs.page_size
    if not text.isdecimal() or int(text) <= 0:
        raise bad_request("Invalid value for $top")
    return min(int(text), call.world.knobs.page_cap)


def times_in(values: object) -> Times:
    """From a fileSystemInfo. Raises GraphError."""
    if values is None:
        return Times()
    if not isinstance(values, dict):
        raise bad_request("fileSystemInfo must be an object")
    info: Json = dict(values)  # pyright: ignore[reportUnknownArgumentType]
    created, modified = info.get("createdDateTime"), info.get("lastModifiedDateTime")
    return Times(
        None if created is None else time_of(created),
        None if modified is None else time_of(modified),
    )


def object_in(body: Json, name: str) -> Json | None:
    """An object of the body. Raises GraphError."""
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, dict):
        raise bad_request(f"{name} must be an object")
    return dict(value)  # pyright: ignore[reportUnknownArgumentType]


def parent_in(call: Call, reference: Json | None) -> Item | None:
    """The folder a parentReference names. Raises GraphError."""
    if reference is None:
        return None
    drive_id = reference.get("driveId")
    drive = call.drive
    if drive_id is not None and call.world.drive_of(str(drive_id)) is not drive:
        raise not_supported("Cross-drive operations are not supported.")
    item_id = reference.get("id")
    if item_id is None and isinstance(reference.get("path"), str):
        path = str(reference["path"]).partition("root:")[2]
        parent = drive.walk(drive.root, [name for name in path.split("/") if name])
        if parent is None:
            raise not_found()
        return parent
    if item_id == "root":
        raise bad_request("The id 'root' is not allowed here.")
    if item_id is None:
        return None
    return drive.get(str(item_id))
