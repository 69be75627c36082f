"""Deploy a version at a door, give it a share, roll back. The first step that fails ends it.

    1. the version is opened, compiled, and its golden cases are computed here
       (``flo.clients.cloud.deployable``);
    2. it is staged at the door, where it answers nobody yet;
    3. its answers there to the golden cases are those computed here;
    4. it was not withdrawn meanwhile;
    5. the audit log says what is begun; it answers requests; the log says that it does.

A step before the last leaves what answers as it was. If the last one fails, the log says that it
was begun, and not that it was done. The log names no patient and no count.
"""

from __future__ import annotations

from flo.clients.cloud.deployable import Deployable, refuse_withdrawn
from flo.clients.cloud.door import Deployed, Door, DoorState
from flo.clients.home.site_home import SiteHome
from flo.clients.prediction.versions import said
from flo.errors import UsageError

_KIND = "deployed"


def deploy(home: SiteHome, door: Door, model: Deployable, why: str) -> Deployed:
    """Let the version answer all requests at the door; return it."""
    before = door.state()
    found = _staged(home, door, model)
    _record(home, door, "begun", found, 100, why)
    door.put_live(found, before)
    _record(home, door, "live", found, 100, why)
    return found


def canary(home: SiteHome, door: Door, model: Deployable, share: int, why: str) -> Deployed:
    """Let the version answer ``share`` percent of requests at the door; return it.

    Raises UsageError: nothing is live there, or this version is.
    """
    before = door.state()
    if before is None:
        raise UsageError(
            f"nothing answers at {door.name}, so nothing is there to be compared with",
            hint=f"flo model deploy {model.name} comes first",
        )
    if before.live.study == model.model.study:
        raise UsageError(f"{model.title} is live at {door.name}: it answers all requests")
    found = _staged(home, door, model)
    _record(home, door, "begun", found, share, why)
    door.give_share(found, share, before)
    _record(home, door, "canary", found, share, why)
    return found


def roll_back(home: SiteHome, door: Door, name: str, why: str) -> Deployed:
    """End the canary at the door; if there is none, let the version before answer. Return it.

    Raises UsageError: nothing was live before. RefusedError: what was is withdrawn.
    """
    before = _live(door)
    after = before.live if before.canary else before.before
    if after is not None:
        refuse_withdrawn(home, name, after.study)
        _record(home, door, "begun", after, 100, why)
    found = door.roll_back(before)
    _record(home, door, "rolled back", found, 100, why)
    return found


def remove(home: SiteHome, door: Door, why: str) -> None:
    """Delete all at the door, whatever is there."""
    _record(home, door, "begun", None, 0, why)
    door.remove()
    _record(home, door, "removed", None, 0, why)


def _live(door: Door) -> DoorState:
    found = door.state()
    if found is None:
        raise UsageError(f"nothing answers at {door.name}", hint="flo model deploy NAME")
    return found


def _staged(home: SiteHome, door: Door, model: Deployable) -> Deployed:
    with door.staged(model) as found:  # 2
        model.refuse_other_answers(lambda asked: door.ask(found.number, asked), door.where)  # 3
    refuse_withdrawn(home, model.name, model.model.study)  # 4
    return found


def _record(
    home: SiteHome, door: Door, what: str, found: Deployed | None, share: int, why: str
) -> None:
    told = said(home, why)
    home.record(
        _KIND,
        found.study if found else None,
        door=door.name,
        what=what,
        version=found.version if found else 0,
        share=share,
        by=told.by,
        why=told.why,
    )
