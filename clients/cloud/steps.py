"""Deploy a version at a door, give it a share, roll back: in steps, each of which may be the last.

    1. the version is opened, compiled, and its golden cases are computed here
       (``flo.clients.cloud.deployable``);
    2. it is published at the door, where it answers nobody yet;
    3. it answers the golden cases there;
    4. it is not withdrawn meanwhile;
    5. it answers requests, and the audit log says so.

A step that fails leaves what answers as it was. The log names no patient and no count.
"""

from __future__ import annotations

from flo.clients.cloud.deployable import Deployable, refuse_withdrawn
from flo.clients.cloud.door import Deployed, Door, State
from flo.clients.home.site_home import SiteHome
from flo.clients.prediction.versions import said
from flo.errors import UsageError

_KIND = "deployed"


def deploy(home: SiteHome, door: Door, model: Deployable, why: str) -> Deployed:
    """Let the version answer all requests at the door; return it."""
    before = door.state()
    found = _published(home, door, model)
    if before is None or before.canary is not None or before.live.number != found.number:
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
    found = _published(home, door, model)
    door.give_share(found, share, before)
    _record(home, door, "canary", found, share, why)
    return found


def roll_back(home: SiteHome, door: Door, name: str, why: str) -> Deployed:
    """End the canary at the door; if there is none, let the version before answer. Return it.

    Raises UsageError: nothing was live before. RefusedError: what was is withdrawn.
    """
    before = _there(door)
    if before.canary is None and before.before is not None:
        refuse_withdrawn(home, name, before.before.study)
    found = door.roll_back(before)
    _record(home, door, "rolled back", found, 100, why)
    return found


def remove(home: SiteHome, door: Door, why: str) -> Deployed:
    """Delete all at the door; return what was live."""
    before = _there(door)
    door.remove()
    _record(home, door, "removed", before.live, 0, why)
    return before.live


def _there(door: Door) -> State:
    found = door.state()
    if found is None:
        raise UsageError(f"nothing answers at {door.name}", hint="flo model deploy NAME")
    return found


def _published(home: SiteHome, door: Door, model: Deployable) -> Deployed:
    with door.published(model) as found:  # 2
        model.refuse_other_answers(lambda asked: door.ask(found.number, asked), door.where)  # 3
    refuse_withdrawn(home, model.name, model.model.study)  # 4
    return found


def _record(home: SiteHome, door: Door, what: str, found: Deployed, share: int, why: str) -> None:
    told = said(home, why)
    home.record(
        _KIND,
        found.study,
        door=door.name,
        what=what,
        version=found.version,
        share=share,
        by=told.by,
        why=told.why,
    )
