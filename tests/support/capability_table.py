"""The table of what each store can do, from what its backend declares; for README.md and
csyncfs-semantics(7). ``python -m tests.support.capability_table`` writes it there.

Each row names the tests that show it, as every statement of that page does.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from csyncfs.backends import azureblob, gcs, onedrive, s3
from csyncfs.backends.azureblob import backend as azure_backend
from csyncfs.backends.azureblob import traits as azure_traits
from csyncfs.backends.base import Capabilities
from csyncfs.backends.directory import DirectoryBackend
from csyncfs.backends.directory import backend as directory_backend
from csyncfs.backends.directory import traits as directory_traits
from csyncfs.backends.directory.commit import Abilities, CreateBy
from csyncfs.backends.gcs import backend as gcs_backend
from csyncfs.backends.gcs import traits as gcs_traits
from csyncfs.backends.onedrive import backend as onedrive_backend
from csyncfs.backends.onedrive import traits as onedrive_traits
from csyncfs.backends.s3 import Support, Verdict
from csyncfs.backends.s3 import backend as s3_backend
from csyncfs.backends.s3 import traits as s3_traits
from csyncfs.backends.traits import Traits
from csyncfs.errors import Unrepresentable
from tests.support.verdicts import AWS, VERDICTS

ROOT: Final = Path(__file__).parents[2]
README: Final = ROOT / "README.md"
PAGE: Final = ROOT / "man" / "csyncfs-semantics.7"
_ANY_SIZE: Final = 1 << 62

_CONDITIONS: Final = "tests/backends/test_s3_dialect.py"
_ODD: Final = "tests/conformance/test_names_and_attributes.py"
_CHANGING: Final = "tests/conformance/test_changing.py"
_TABLE: Final = "tests/conformance/test_declared.py"
_WRITING: Final = "tests/conformance/test_writing.py"
_CHECKED: Final = (
    "tests/backends/test_s3_integrity.py::test_a_spoilt_download_announces_nothing_and_is_good_the_next_time",
    "tests/backends/test_azure_integrity.py::test_a_download_that_arrives_damaged_is_not_announced",
    "tests/backends/test_gcs_reading.py::test_small_content_that_arrives_damaged_is_not_announced",
    "tests/backends/test_onedrive_trouble.py::test_damage_is_noticed_before_a_byte_is_announced",
)


@dataclass(frozen=True, slots=True)
class Store:
    """One column."""

    title: str
    kind: type
    can: Capabilities
    traits: Traits
    at_best: Capabilities | None = None
    """Where the kind has accounts of a better sort; what these change has an asterisk."""


@dataclass(frozen=True, slots=True)
class Row:
    title: str
    cell: Callable[[Store], str]
    evidence: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ServerRow:
    """What the probe finds out about a server of S3."""

    title: str
    cell: Callable[[Verdict], str]


def stores() -> tuple[Store, ...]:
    """The columns, each at its best and with the sizes a mount has by default."""
    able = Abilities(CreateBy.LINK, can_exchange=True)
    s3_options = s3.S3Options("bucket")
    azure_options = azureblob.AzureOptions("account", "container")
    gcs_options = gcs.GcsOptions("bucket")
    one_options = onedrive.OneDriveOptions("me")
    return (
        Store(
            "directory",
            DirectoryBackend,
            directory_backend.capabilities(able, 255),
            directory_traits.traits(),
        ),
        Store(
            "S3",
            s3.S3Backend,
            s3_backend.capabilities(AWS, s3_options),
            s3_traits.traits(AWS, s3_options),
        ),
        Store(
            "Azure",
            azureblob.AzureBackend,
            azure_backend.capabilities(azure_options, is_hierarchical=False),
            azure_traits.traits(azure_options),
            azure_backend.capabilities(azure_options, is_hierarchical=True),
        ),
        Store(
            "Google",
            gcs.GcsBackend,
            gcs_backend.capabilities(gcs_options, is_hierarchical=False),
            gcs_traits.traits(gcs_options),
        ),
        Store(
            "OneDrive",
            onedrive.OneDriveBackend,
            onedrive_backend.capabilities(one_options, "business"),
            onedrive_traits.traits(one_options, is_personal=False),
        ),
    )


def servers() -> dict[str, Verdict]:
    """Amazon S3 as it is documented, the others as the probe finds them in the tests."""
    found = {verdict.server: verdict for verdict in VERDICTS.values()}
    named = {"AWS": AWS, "SeaweedFS": found["SeaweedFS"], "Ceph 16": found["Ceph"]}
    return {**named, "Swift": VERDICTS["swift"], "rclone": VERDICTS["rclone_s3"]}


def _size(count: int) -> str:
    for unit, name in ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= unit:
            return f"{count / unit:.0f} {name}"
    return str(count)


def _over(count: int | None, otherwise: str) -> str:
    return otherwise if count is None else f"> {_size(count)}" if count else "yes"


def _yes(is_so: bool, otherwise: str = "no") -> str:
    return "yes" if is_so else otherwise


def _name(name: str) -> Callable[[Store], str]:
    def cell(store: Store) -> str:
        try:
            return _yes(store.traits.name_there(name) == name, "spelled")
        except Unrepresentable:
            return "refused"

    return cell


def _xattrs(store: Store) -> str:
    fit = store.traits.xattr_bytes
    return "yes" if fit is None else _size(fit) if fit else "no"


def _owner(store: Store) -> str:
    if not store.can.keeps_attributes:
        return "no"
    return "by root" if store.traits.owner_needs_root else "yes"


ROWS: Final = (
    Row(
        "overwrites on condition",
        lambda s: _yes(s.can.conditional_put, "look first"),
        (f"{_WRITING}::test_of_eight_writers_at_once_one_wins",),
    ),
    Row(
        "removes on condition",
        lambda s: _yes(s.can.conditional_delete, "look first"),
        (f"{_CHANGING}::test_delete_removes_the_expected_version_only",),
    ),
    Row(
        "file renamed",
        lambda s: "at once" if s.can.move_file else "by a copy",
        (
            f"{_CHANGING}::test_a_moved_file_has_its_bytes_and_attributes",
            f"{_CHANGING}::test_move_is_refused_where_it_is_not_declared",
        ),
    ),
    Row(
        "directory renamed",
        lambda s: "at once" if s.can.move_tree else "each item",
        (
            f"{_CHANGING}::test_a_moved_tree_keeps_everything_below",
            "tests/engines/test_crashes.py::test_a_directory_of_many_files_moves_through_crashes",
        ),
    ),
    Row(
        "copies made by the store",
        lambda s: _yes(s.can.server_copy),
        (f"{_CHANGING}::test_a_copy_has_the_content_and_new_attributes",),
    ),
    Row(
        "reads only what is asked",
        lambda s: _over(s.can.whole_bytes, "no"),
        ("tests/kernel/test_lazy.py::test_a_little_of_a_large_object_moves_little",),
    ),
    Row(
        "interrupted uploads go on",
        lambda s: _over(s.traits.resumes_over_bytes, "no"),
        (f"{_WRITING}::test_a_put_goes_on_where_it_was_interrupted",),
    ),
    Row(
        "sends only what was edited",
        lambda s: _over(s.traits.resends_over_bytes, "no"),
        (
            "tests/backends/test_azure_blocks.py::test_an_edit_sends_the_block_it_changed_and_no_other",
        ),
    ),
    Row(
        "whole files checked by",
        lambda s: s.traits.checksum or "no",
        _CHECKED,
    ),
    Row(
        "mode, symlinks, FIFOs",
        lambda s: _yes(s.can.keeps_attributes),
        (
            f"{_ODD}::test_attributes_come_back_to_the_nanosecond",
            f"{_ODD}::test_a_symlink_comes_back_with_its_target",
            f"{_ODD}::test_a_special_file_comes_back",
        ),
    ),
    Row(
        "owner, group, devices",
        _owner,
        (f"{_ODD}::test_the_owner_comes_back", f"{_ODD}::test_a_special_file_comes_back"),
    ),
    Row(
        "time of last change",
        lambda s: _yes(s.traits.keeps_mtime),
        (f"{_TABLE}::test_times_of_change_are_kept_as_declared",),
    ),
    Row(
        "xattrs and access lists",
        _xattrs,
        (f"{_ODD}::test_xattrs_come_back_and_are_replaced",),
    ),
    Row(
        "hard links elsewhere",
        lambda s: _yes(s.can.keeps_attributes),
        ("tests/engines/test_links.py::test_another_machine_sees_one_file",),
    ),
    Row(
        "listings tell attributes",
        lambda s: _yes(s.traits.lists_attributes),
        (f"{_TABLE}::test_listings_tell_attributes_as_declared",),
    ),
    Row(
        "changes elsewhere found by",
        lambda s: "a feed" if s.can.change_feed else "listing",
        (
            "tests/kernel/test_two_mounts.py::test_names_sizes_and_deletions_follow",
            "tests/kernel/test_onedrive_feed.py"
            "::test_what_others_do_is_seen_by_the_feed_and_nothing_is_listed_again",
        ),
    ),
    Row(
        "largest file",
        lambda s: "any" if s.can.max_size_bytes >= _ANY_SIZE else _size(s.can.max_size_bytes),
        ("tests/kernel/test_calls.py::test_a_size_nobody_can_upload",),
    ),
    Row(
        "longest name, bytes",
        lambda s: f"{s.can.max_name_bytes}",
        (f"{_ODD}::test_a_name_comes_back_or_is_refused",),
    ),
    Row(
        "paths as they are, up to",
        lambda s: "any" if s.traits.plain_path_chars is None else f"{s.traits.plain_path_chars:,}",
        (f"{_ODD}::test_a_path_as_long_as_linux_allows",),
    ),
    Row(
        "longer paths",
        lambda s: (
            "refused"
            if s.can.max_key_bytes
            else "-"
            if s.traits.plain_path_chars is None
            else ".csyncfs"
        ),
        (f"{_ODD}::test_a_path_as_long_as_linux_allows",),
    ),
    Row(
        "case counts",
        lambda s: _yes(not s.traits.folds_case),
        (f"{_TABLE}::test_case_counts_as_declared",),
    ),
    Row(
        "names that are not UTF-8",
        lambda s: _yes(s.can.raw_names, "refused"),
        (f"{_ODD}::test_raw_names_are_kept_or_refused_as_declared",),
    ),
    *(
        Row(title, _name(name), (f"{_TABLE}::test_names_are_spelled_as_declared",))
        for title, name in (
            ("\\ in names", "a\\b"),
            ('" * : < > ? | in names', 'a"*:<>?|b'),
            ("control characters", "a\x01b"),
            ("line feeds", "a\nb"),
            ("dot at the end", "a."),
            ("space at the end", "a "),
        )
    ),
)


def _support(*names: str) -> Callable[[Verdict], str]:
    def cell(verdict: Verdict) -> str:
        found = {Support(getattr(verdict, name)) for name in names}
        worst = (Support.IGNORED, Support.UNSUPPORTED, Support.YES)
        return next(support for support in worst if support in found).value

    return cell


SERVER_ROWS: Final = (
    ServerRow("condition of an upload", _support("put_if_none_match", "put_if_match")),
    ServerRow(
        "condition of a multipart upload", _support("complete_if_none_match", "complete_if_match")
    ),
    ServerRow("condition of a copy", _support("copy_if_none_match", "copy_if_match")),
    ServerRow("version a copy is made of", _support("copy_source_if_match")),
    ServerRow("condition of a removal", _support("delete_if_match")),
    ServerRow("version that is read", _support("get_if_match")),
    ServerRow("keeps attributes", lambda v: _yes(v.keeps_metadata)),
    ServerRow("any name", lambda v: _yes(v.raw_keys, "not // . .. \\")),
)


def _cells(store_columns: Sequence[Store]) -> list[list[str]]:
    head = ["", *(store.title for store in store_columns)]
    return [head, *([row.title, *(_cell(row, one) for one in store_columns)] for row in ROWS)]


def _cell(row: Row, store: Store) -> str:
    text = row.cell(store)
    if store.at_best is None or row.cell(replace(store, can=store.at_best)) == text:
        return text
    return f"{text}*"


def _server_cells() -> list[list[str]]:
    columns = servers()
    return [
        ["server of S3", *columns],
        *([row.title, *map(row.cell, columns.values())] for row in SERVER_ROWS),
    ]


def markdown() -> str:
    return "\n\n".join(_markdown(cells) for cells in (_cells(stores()), _server_cells()))


def _markdown(cells: list[list[str]]) -> str:
    def line(row: list[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"

    head, *rows = cells
    return "\n".join([line(head), "|" + "---|" * len(head), *map(line, rows)])


def roff() -> str:
    evidence = [row.evidence for row in ROWS]
    probe = [(f"{_CONDITIONS}::test_probe_classifies_the_server_as_measured",)] * len(SERVER_ROWS)
    tables = (_roff(_cells(stores()), evidence), _roff(_server_cells(), probe))
    return "\n".join(f".PP\n{table}" for table in tables)


def _roff(cells: list[list[str]], evidence: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    padded = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    head, *rows = [line.replace("\\", "\\e").replace("-", "\\-") for line in padded]
    lines = [".nf", f"\\fB{head}\\fR"]
    for row, tests in zip(rows, evidence, strict=True):
        # A quotation mark or a dot must not be taken for a request.
        lines += [f"\\&{row}", *(f'.\\" {test}' for test in tests)]
    return "\n".join([*lines, ".fi"])


@dataclass(frozen=True, slots=True)
class Place:
    path: Path
    begin: str
    end: str
    made: Callable[[], str]

    def up_to_date(self) -> str:
        """The text of the file as it should be."""
        before, _, rest = self.path.read_text().partition(self.begin)
        _, found, after = rest.partition(self.end)
        if not found:
            raise ValueError(f"{self.path.name} lacks the markers of the table")
        return f"{before}{self.begin}{self.made()}\n{self.end}{after}"


PLACES: Final = (
    Place(
        README,
        "<!-- made by `make capabilities`; edits are lost -->\n",
        "<!-- end of what is made -->",
        markdown,
    ),
    Place(
        PAGE,
        '.\\" made by "make capabilities"; edits are lost\n',
        '.\\" end of what is made',
        roff,
    ),
)


def main() -> None:
    for place in PLACES:
        place.path.write_text(place.up_to_date())
        sys.stdout.write(f"{place.path.name} is up to date\n")


if __name__ == "__main__":
    main()
