"""What waits for the steward, and telling them so.

The command under ``notify`` in site.toml gets each new study once, as JSON on its standard input:
hospital, study, version, digest, epsilon, expires. Its text comes from the coordinator, so it is
data, never part of a command line.
"""

from __future__ import annotations

import logging
import subprocess
from typing import Annotated, Literal

from pydantic import Field

from flo import canonical
from flo.claims import Digest
from flo.clients.approval import approval_path, first_path, refusal_path, withdrawal_path
from flo.clients.coordinator_api import CoordinatorApi
from flo.clients.home import SiteHome
from flo.clients.offers import offered_studies
from flo.errors import TrustError
from flo.files import write_private
from flo.settings import Document, parse
from flo.study import Study

log = logging.getLogger("flo.clients.inbox")
_LIMIT, _SECONDS = 1 << 20, 30

Here = Literal["withdrawn", "approved", "refused", "waiting for another person", "waiting for you"]


_MOST_TOLD = 10_000


class _Told(Document):
    schema_version: Literal[1] = 1
    studies: Annotated[tuple[Digest, ...], Field(max_length=_MOST_TOLD)] = ()


def decided(home: SiteHome, study: str) -> Here:
    """What was decided about a study here."""
    for word, path in (
        ("withdrawn", withdrawal_path(home, study)),
        ("approved", approval_path(home, study)),
        ("refused", refusal_path(home, study)),
        ("waiting for another person", first_path(home, study)),
    ):
        if path.exists():
            return word  # type: ignore[return-value]
    return "waiting for you"


def tell_of_new(home: SiteHome, api: CoordinatorApi) -> None:
    """Run the site's ``notify`` command for each study that it was not told of and that waits."""
    command, path = home.config.notify, home.directory / "told.json"
    if not command:
        return
    told = _Told()
    if path.exists():
        told = parse(_Told, canonical.decode(path.read_bytes(), limit=_LIMIT, what="told"), "told")
    try:
        offers = offered_studies(api, home.coordinator)
    except TrustError as error:  # for the steward to look at; what is approved goes on
        log.error(f"a study on offer is not trusted: {error} {error.hint}")
        return
    for offer in offers:
        digest = offer.study.digest
        if digest in told.studies or decided(home, digest) != "waiting for you":
            continue
        told = _Told(studies=(*told.studies[1 - _MOST_TOLD :], digest))
        write_private(path, canonical.encode(told.model_dump(mode="json")))
        worked = _run(command, _facts(home, offer.study))
        home.record("steward-told", digest, worked=worked)


def _facts(home: SiteHome, study: Study) -> bytes:
    return canonical.encode(
        {
            "hospital": home.config.hospital,
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
        log.error(f"the notify command of site.toml ended in {done.returncode}")
    return done.returncode == 0
