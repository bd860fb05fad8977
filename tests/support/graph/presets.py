"""Bad days by name: switches and rules that belong together."""

from collections.abc import Callable
from typing import Final

from tests.support.graph.drives import Kind
from tests.support.graph.faults import Action, Rule, What
from tests.support.graph.knobs import Flavour
from tests.support.graph.world import World


def _throttle_storm(world: World) -> None:
    for every, wait in ((5, 1), (7, 2), (11, 3)):
        action = Action.status(429, retry_after=wait, enforce=True)
        world.faults.add(Rule(action, every=every))


def _flaky(world: World) -> None:
    for code in (500, 502, 503, 504):
        world.faults.add(Rule(Action.status(code, html=code in (502, 504)), prob=0.02))
    world.faults.add(Rule(Action(What.RESET), prob=0.02))


def _lost_replies(world: World) -> None:
    world.faults.add(Rule(Action(What.DROP_AFTER_COMMIT), prob=0.05))
    world.faults.add(Rule(Action.status(504, after=True), prob=0.05))


def _eventual(world: World) -> None:
    world.knobs.not_found_s = 2.0
    world.knobs.delta_lag_s = 10.0


def _sharepoint_office(world: World) -> None:
    world.knobs.enrich_s = 0.2
    world.knobs.session_in_commit_reply = True


def _media_postproc(world: World) -> None:
    world.knobs.postproc_s = 0.2
    world.knobs.postproc_ctag = True


def _session_hell(world: World) -> None:
    world.knobs.keep_partial = True
    world.knobs.ranges_form = "closed"
    world.faults.add(
        Rule(Action.status(404), route="fragment", nth=1),
        Rule(Action.status(403), route="fragment", nth=6),
        Rule(Action(What.DROP_MID_REQUEST, count=100_000), route="fragment", every=3),
        Rule(Action(What.DROP_AFTER_COMMIT), route="fragment", every=4),
        Rule(Action.status(416), route="fragment", every=5),
    )


def _case_clash(world: World) -> None:
    for name in ("Readme.txt", "DATEN", "straße"):
        if world.drive.child(world.drive.root, name) is None:
            world.drive.add(world.drive.root, name, Kind.FILE, by="somebody")


def _resync_apply(world: World) -> None:
    world.drive.expire_tokens("apply")


def _resync_upload(world: World) -> None:
    world.drive.expire_tokens("upload")


def _full_quota(world: World) -> None:
    world.drive.quota_total = world.drive.used


def _locked(world: World) -> None:
    for item in world.drive.items.values():
        if item.is_file:
            item.locked_by = "somebody"


def _old_personal_ids(world: World) -> None:
    assert world.flavour is Flavour.PERSONAL
    world.knobs.new_ids = False
    world.knobs.old_hashes = True
    world.knobs.drive_id = "drop_zero"


def _messy_delta(world: World) -> None:
    world.knobs.dup_items = True
    world.knobs.empty_page = True
    world.knobs.create_before_delete = True
    world.knobs.negative_folder_size = True
    world.knobs.child_count_zero = True
    world.knobs.folder_delete = "children_first"


PRESETS: Final[dict[str, Callable[[World], None]]] = {
    "throttle_storm": _throttle_storm,
    "flaky": _flaky,
    "lost_replies": _lost_replies,
    "eventual": _eventual,
    "sharepoint_office": _sharepoint_office,
    "media_postproc": _media_postproc,
    "session_hell": _session_hell,
    "case_clash": _case_clash,
    "resync_apply": _resync_apply,
    "resync_upload": _resync_upload,
    "full_quota": _full_quota,
    "locked": _locked,
    "old_personal_ids": _old_personal_ids,
    "messy_delta": _messy_delta,
}
