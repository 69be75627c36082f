"""This hospital's plans for alarms: stored, signed, and found in the audit log.

As of comparisons: a signed plan is a file of the site's folder, named by its digest, and the latest
entry about a model in the audit log says which plan is in force.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from flo.clients.home.site_home import SiteHome
from flo.clients.prediction.signed_decision import read_decided
from flo.clients.prediction.versions import FOLDER, now
from flo.clients.watching.kept import Watched
from flo.clients.watching.plan import WatchPlan
from flo.documents.document import parse
from flo.errors import FloError, RefusedError
from flo.storage.files import make_private_directory, write_private

_KIND = "watch-plan"
_ENTRIES = 1000
_AGAIN = "flo model plan NAME decides again"


def refuse_finished(watched: Watched) -> None:
    """Raise RefusedError for a model that was finished here: a plan is an entry of the audit log,
    which must not say that there is one, and it has no versions of which another could answer."""
    if watched.finished:
        raise RefusedError(
            "this model was finished here, and alarms of finished models only tell",
            hint="flo model plan is for published models that are in use",
        )


def decide(
    home: SiteHome,
    name: str,
    follow_up_days: int,
    responses: Mapping[str, str],
    by: str,
    why: str,
) -> WatchPlan:
    """Sign and store a plan, and put it into force. Raises UsageError: a text is not allowed."""
    several = [{"about": about, "action": action} for about, action in responses.items()]
    facts: dict[str, Any] = {"name": name, "follow_up_days": follow_up_days, "responses": several}
    plan = parse(WatchPlan, facts | {"by": by, "why": why, "time": now()}, "the plan")
    signed = plan.signed(home.open_identity())
    make_private_directory(home.directory / FOLDER)
    write_private(_path(home, signed.digest), signed.to_bytes())
    home.record(_KIND, None, plan=signed.digest, **facts, by=by, why=why)
    return signed


def read(home: SiteHome, name: str) -> WatchPlan | None:
    """Return the plan in force; None if alarms only tell. Raises TrustError: it is missing, or was
    changed."""
    with closing(home.open_audit_log()) as log:
        entries, _ = log.latest(_ENTRIES, kind=_KIND)
    digest = next((str(one.facts["plan"]) for one in entries if one.facts["name"] == name), None)
    if digest is None:
        return None
    plan = read_decided(WatchPlan, _path(home, digest), digest, "plan", _AGAIN)
    plan.check(home.open_identity().public)
    return plan


def told(home: SiteHome, name: str) -> tuple[WatchPlan | None, str]:
    """Return the plan in force, and why it cannot be read; "" if it can, or if there is none.

    While it cannot be read, alarms wait for what it says.
    """
    try:
        return read(home, name), ""
    except FloError as error:
        return None, f"{error} ({error.hint})" if error.hint else str(error)


def _path(home: SiteHome, digest: str) -> Path:
    return home.directory / FOLDER / f"{digest}.watch.json"
