"""The switches: everything the real service was seen to do, or may do, that is not documented.

Defaults are the behaviour most often seen. Seconds are those of the emulator's clock.
"""

import enum
from dataclasses import dataclass
from typing import Final

MIB: Final = 1 << 20


class Flavour(enum.StrEnum):
    """The three services behind one API."""

    PERSONAL = "personal"
    BUSINESS = "business"
    SHAREPOINT = "sharepoint"

    @property
    def drive_type(self) -> str:
        return "documentLibrary" if self is Flavour.SHAREPOINT else self.value

    @property
    def is_personal(self) -> bool:
        return self is Flavour.PERSONAL


@dataclass(slots=True)
class Knobs:
    """Change them at any time, also while requests run."""

    strict: bool = True
    """Refuse what the real service perhaps lets pass and no client should send."""
    static_token: bool = True
    """Any bearer token is good until ``revoke_tokens``; False: only those of the sign-in."""
    token_life_s: float = 3600.0
    on_its_way_s: float = 0.25
    """Real time: what was sent before the 429 could be read is nobody's fault. More on a machine
    that is busy with several processes."""

    # names and addresses
    plus_as_space: bool = False
    """An unescaped + in a path is read as a space."""
    nfc_names: bool = False
    """Names that differ only in Unicode's composition are the same name."""
    new_ids: bool = False
    """Personal: items are DRIVE!s<32 hex digits>."""
    drive_id: str = "exact"
    """Personal, in answers: exact | drop_zero | upper."""
    url_encoded_names: bool = False
    """In delta, names come percent-encoded now and then."""
    implicit_parents: bool = True
    """PUT /content by path makes the folders that are missing."""
    rename_style: str = "{stem} {n}"
    """How conflictBehavior=rename finds a name: or "{stem} ({n})"."""

    # tags and versions
    double_bump: bool = False
    """Business: a new content counts twice in the eTag."""
    ctag_on_rename: bool = True
    """Business: a rename changes the cTag."""
    postproc_s: float | None = 2.0
    """Personal: pictures, sound and films get a new eTag so long after the upload."""
    postproc_ctag: bool = False
    """... and a new cTag."""
    enrich_s: float | None = 2.0
    """SharePoint: Office and HTML files are rewritten so long after the upload."""
    ignore_if_none_match: bool = False
    """GET never says 304."""
    mtime_reset_on_move: bool = True
    """A rename or move without fileSystemInfo sets the file's time to now."""
    delete_if_match_fails: bool = False
    """DELETE with If-Match is always 412."""
    changed_as_409: bool = False
    """What should be 412 comes as 409 resourceModified."""
    old_hashes: bool = False
    """Personal: SHA-1 and SHA-256 as well."""

    # answers
    innererror_lower: bool = False
    empty_mkdir_reply: bool = False
    zero_byte_hash: bool = True
    zero_byte_download_url: bool = False
    quota_view: str = "full"
    """full | missing | zeros"""
    phantom_drives: bool = False
    """Personal: /me/drives names drives nobody can open."""
    page_size: int = 200
    page_cap: int = 1000

    # content
    url_life_s: float = 3600.0
    pinned_downloads: bool = False
    """A download URL serves the version it was made for."""
    ignore_range: bool = False
    """Range is answered by 200 and everything."""
    small_limit: int = 250 * MIB

    # copies, search
    copy_s: float = 1.0
    copy_clash_in_monitor: bool = False
    monitor_303: bool = False
    search_lag_s: float = 0.0

    # upload sessions
    session_behaviour: str = "fail"
    """What an absent conflictBehavior means."""
    if_match_path_ok: bool = False
    """If-Match on the form with parent and name is compared with the file, not its parent."""
    omit_ranges: bool = False
    """createUploadSession says nothing of nextExpectedRanges."""
    session_visible_s: float = 0.0
    """A new session is unknown to the upload host so long."""
    etag_moves_on_session: bool = False
    session_tempauth_s: float = 86400.0
    ranges_form: str = "open"
    """nextExpectedRanges: open (N-) | closed (N-M) | multi"""
    keep_partial: bool = False
    """What arrived of a fragment that was cut off is kept."""
    empty_commit_reply: bool = False
    session_in_commit_reply: bool = False
    rotate_upload_url: bool = False
    """The status of a session names a new URL; both are good."""

    # delta
    delta_lag_s: float = 0.0
    delta_shuffle: bool = False
    delta_path: str = "none"
    """parentReference.path in delta: none | plain | encoded"""
    folder_delete: str = "parent_first"
    """parent_first | children_first | top_only"""
    omit_made_and_gone: bool = False
    """What was made and deleted between two calls is not mentioned."""
    dup_items: bool = False
    """Items come more than once, an older state first."""
    create_before_delete: bool = False
    """Tombstones come last."""
    empty_page: bool = False
    """Now and then a page without items that has a nextLink."""
    lose_deletes: bool = False
    """What is deleted during a full enumeration is never told."""
    negative_folder_size: bool = False
    child_count_zero: bool = False

    # throttling
    units_per_minute: int | None = None
    """Resource units; None: as many as you like."""

    # consistency
    not_found_s: float = 0.0
    """Items, and children of folders, that are younger than this are 404."""
