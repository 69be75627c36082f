"""Studies that await the steward's decision, and notifications to the steward.

The command under ``notify`` in site.toml runs once for each new study, with JSON on its standard
input: hospital, study, version, digest, epsilon, expires, read_it. It also runs once for each new
key of the coordinator: hospital, new_key, compare_it. The texts come from the coordinator, so they
are passed as data, never in a command line. The new key's fingerprint is left out: the steward must
obtain it by telephone.
"""

from __future__ import annotations

import logging
import subprocess
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field

from flo.clients.connection.coordinator_api import CoordinatorApi
from flo.clients.connection.enrolment import newest_key
from flo.clients.connection.offers import known_studies, offered_studies
from flo.clients.home.site_home import SiteHome
from flo.clients.records.approval import (
    approval_path,
    pending_path,
    readable,
    refusal_path,
    withdrawal_path,
)
from flo.documents import canonical
from flo.documents.document import Document, read_json
from flo.errors import FloError, MessageError, TrustError, UsageError
from flo.keys.claims import Digest
from flo.keys.identity import fingerprint
from flo.storage.files import write_private
from flo.study.document import UNDER_WAY, Study
from flo.study.loading import from_canonical

log = logging.getLogger("flo.clients.inbox")
_FILE, _LIMIT, _SECONDS = "told.json", 1 << 20, 30
_MOST_TOLD = 10_000
_NONE = "not signed by the coordinator, or of another version of FLO"

Here = Literal["withdrawn", "approved", "refused", "waiting for another person", "waiting for you"]


class _Notified(Document):
    schema_version: Literal[1] = 1
    studies: Annotated[tuple[Digest, ...], Field(max_length=_MOST_TOLD)] = ()
    key: Digest | None = None  # fingerprint of the coordinator's newest key


@dataclass(frozen=True)
class Listed:
    """A study that names us. ``status``: at the coordinator; ``here``: the decision here."""

    name: str
    version: int
    digest: str
    epsilon: float
    expires: str
    status: str
    here: str


def listed(home: SiteHome, api: CoordinatorApi) -> list[Listed]:
    """Return all studies that the coordinator lists for this hospital or that were approved here.

    A study that cannot be read, or that no key of the coordinator signed, is marked as such and
    cannot be decided on.
    """
    found = []
    for item in known_studies(api):
        data = item.study.encode()
        try:
            home.read_coordinator().signer_of(data, item.signature)
            study = from_canonical(data)
        except FloError as error:
            log.error(f"a study that the coordinator lists cannot be read or trusted: {error}")
            digest = canonical.digest(data)
            found.append(Listed("a study that cannot be read", 0, digest, 0.0, "", "", _NONE))
            continue
        here: str = decided(home, study.digest)
        if item.status not in UNDER_WAY and here.startswith("waiting"):
            here = "not approved"
        found.append(_listed(study, item.status, here))
    known = {one.digest for one in found}
    hidden = [one for one in listed_here(home) if one.digest not in known]
    return [*found, *(replace(one, status="not listed there") for one in hidden)]


def listed_here(home: SiteHome) -> list[Listed]:
    """Return the studies approved here, without calling the coordinator."""
    return [
        _listed(approved.read_study(), "not known now", decided(home, digest))
        for digest, approved in readable(home)
        if approved is not None
    ]


def _listed(study: Study, status: str, here: str) -> Listed:
    return Listed(
        study.name,
        study.version,
        study.digest,
        study.largest_epsilon,
        study.expires.isoformat(),
        status,
        here,
    )


def decided(home: SiteHome, study: str) -> Here:
    """Return the decision made here about a study."""
    for word, path in (
        ("withdrawn", withdrawal_path(home, study)),
        ("approved", approval_path(home, study)),
        ("refused", refusal_path(home, study)),
        ("waiting for another person", pending_path(home, study)),
    ):
        if path.exists():
            return word  # type: ignore[return-value]
    return "waiting for you"


def notify_steward(home: SiteHome, api: CoordinatorApi) -> None:
    """Run the site's ``notify`` command for each study or key not yet notified."""
    if home.read_config().notify:
        _notify_of_key(home, api)
        _notify_of_studies(home, api)


def _notify_of_key(home: SiteHome, api: CoordinatorApi) -> None:
    try:
        newest = newest_key(home, api)
    except (TrustError, MessageError, UsageError) as error:
        log.error(f"the coordinator's new key is not trusted: {error}")
        return
    told, mark = _told(home), fingerprint(bytes.fromhex(newest))
    if newest == home.read_coordinator().public or told.key == mark:
        return
    _keep(home, told.model_copy(update={"key": mark}))
    facts = {
        "hospital": home.read_config().hospital,
        "new_key": "the coordinator replaced its key: this site accepts nothing that the new key "
        "signs until you have compared it by telephone",
        "compare_it": "flo site coordinator --accept FINGERPRINT",
    }
    home.record("steward-told", worked=_run(home.read_config().notify, canonical.encode(facts)))


def _notify_of_studies(home: SiteHome, api: CoordinatorApi) -> None:
    try:
        offers = offered_studies(api, home.read_coordinator())
    except TrustError as error:  # the steward has to inspect it; approved studies go on
        log.error(f"a study on offer is not trusted: {error} {error.hint}")
        return
    for offer in offers:
        told, digest = _told(home), offer.study.digest
        if digest in told.studies or decided(home, digest) != "waiting for you":
            continue
        studies = (*told.studies[1 - _MOST_TOLD :], digest)
        _keep(home, told.model_copy(update={"studies": studies}))
        worked = _run(home.read_config().notify, _facts(home, offer.study))
        home.record("steward-told", digest, worked=worked)


def _told(home: SiteHome) -> _Notified:
    path = home.directory / _FILE
    if not path.exists():
        return _Notified()
    return read_json(_Notified, path, limit=_LIMIT)


def _keep(home: SiteHome, told: _Notified) -> None:
    write_private(home.directory / _FILE, told.to_bytes())


def _facts(home: SiteHome, study: Study) -> bytes:
    return canonical.encode(
        {
            "hospital": home.read_config().hospital,
            "study": study.name,
            "version": study.version,
            "digest": study.digest,
            "epsilon": study.largest_epsilon,
            "expires": study.expires.isoformat(),
            "read_it": f"flo site review {study.digest[:12]}",
        }
    )


def _run(command: tuple[str, ...], facts: bytes) -> bool:
    try:
        done = subprocess.run(list(command), input=facts, capture_output=True, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        log.error(f"the notify command of site.toml failed ({type(error).__name__})")
        return False
    if done.returncode:
        log.error(f"the notify command of site.toml ended with exit code {done.returncode}")
    return done.returncode == 0
