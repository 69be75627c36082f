"""Recovery of a site's folder from a backup: later spending is charged in full before further use.

    1. ``restore`` unpacks the backup; until step 2 is done the ledger cannot be opened;
    2. ``recover`` learns the highest head of this ledger that the coordinator or partners saw, and
       every approval that the coordinator ever received from this site;
    3. all that was open, and all that was approved since, counts as released in full, and rows
       that these cannot account for use up every population (``Ledger.restore``).

Backups contain no frozen patients and no kept replies: a study that was under way continues without
this site. Policy and opt-outs are those of the backup, so the policy is not in force until the
steward has inspected both and signed it again. If a coordinator hides a newer head, the first
partner that saw it detects this: then the agent stops, and ``recover`` charges again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import Field

from flo.clients.connection.coordinator_api import CoordinatorApi
from flo.clients.connection.cosigning import head_seen
from flo.clients.home.site_home import RESTORED, SiteHome
from flo.documents import canonical
from flo.documents.document import Document, parse
from flo.errors import RefusedError, TrustError
from flo.keys import backup
from flo.keys.identity import verify
from flo.privacy.ledger.admission import Approved, Restored
from flo.protocol.decisions import Signed, read_approval
from flo.study.document import MAX_STUDY_BYTES
from flo.study.loading import from_canonical

_LEFT_OUT = (
    *("snapshots", "replies", "finished", "models", "answers", "encoders", "log"),
    RESTORED,
)
_EMPTY = ("snapshots", "replies", "approved", "extracts", "erasures", "finished")
_MOST_ASKS = 1000


def back_up(home: SiteHome, out: Path, secret: bytes) -> int:
    """Write this site's folder to ``out``; return the number of files. The agent may run on."""
    with home.decision_lock():
        name = home.read_config().hospital
        count = backup.write(out, "site", name, home.directory, _LEFT_OUT, secret)
    home.record("backed-up", files=count)
    return count


def restore(file: Path, directory: Path, secret: bytes) -> backup.Header:
    """Unpack a backup into a new folder, whose ledger stays closed until ``recover``."""
    found = backup.read(file, "site", secret)
    facts = {"made": found.header.made, "restored": datetime.now(UTC).isoformat(timespec="seconds")}
    closed = {RESTORED: canonical.encode(facts)}  # written first, so the ledger stays closed
    backup.unpack(replace(found, files=closed | found.files), directory, _EMPTY)
    home = SiteHome.open(directory)
    home.record("restored", made=found.header.made)
    return found.header


def recover(home: SiteHome, api: CoordinatorApi) -> Restored:
    """Charge what may have happened since this copy of the ledger was made, and open it again.

    Raises:
        TrustError: our key did not sign what the coordinator shows, or two copies of the ledger
        were in use.
        RefusedError: an agent runs, another decision is being made, or no row is missing.
    """
    with (
        home.agent_lock(),
        home.decision_lock(),
        closing(home.open_ledger(recovering=True)) as ledger,
    ):
        seen, approved = head_seen(api), list(_ever_approved(home, api))
        if not (home.directory / RESTORED).exists() and ledger.lost_head(seen) is None:
            raise RefusedError("there is nothing to recover: all rows that others saw are here")
        restored = ledger.restore(approved, seen)
        home.record(  # this entry puts the policy out of force until it is signed again
            "ledger-recovered",
            lost=restored.lost,
            studies=list(restored.studies),
            exhausted=list(restored.exhausted),
        )
        (home.directory / RESTORED).unlink(missing_ok=True)
    return restored


class _Given(Signed):
    study: Annotated[str, Field(max_length=MAX_STUDY_BYTES)]


class _Listing(Document):
    given: Annotated[tuple[_Given, ...], Field(max_length=1000)]


def _ever_approved(home: SiteHome, api: CoordinatorApi) -> Iterator[Approved]:
    """Yield every study that this site's key approved, from the coordinator's records."""
    public, after = home.open_identity().public, ""
    for _ in range(_MOST_ASKS):
        listing = parse(_Listing, api.call("given", {"after": after}), "our approvals")
        if not listing.given:
            return
        for found in listing.given:
            verify(public, "approval", found.document.encode(), found.signature)
            decision, study = read_approval(found.document), from_canonical(found.study.encode())
            if decision.study != study.digest:
                raise TrustError("the coordinator shows one of our approvals with another study")
            if study.digest <= after:
                raise TrustError("the coordinator shows our approvals out of order")
            after = study.digest
            yield Approved(study, decision.population, decision.worst_case)
    raise TrustError(
        f"the coordinator lists more approvals of this site after {_MOST_ASKS} answers"
    )
