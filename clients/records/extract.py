"""Signed extract of the site's ledger, for one study: all that an auditor may see.

It has all rows from birth on, chained; rows of other studies show mechanism and counts, no names.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flo.clients.connection.coordinator_api import CoordinatorApi
from flo.clients.home.emergency_stop import refuse_halted
from flo.clients.home.site_home import SiteHome
from flo.clients.records import approval
from flo.documents import canonical
from flo.errors import MessageError, TrustError
from flo.host.environment import software
from flo.privacy.ledger.ledger import Ledger
from flo.storage.files import write_private

log = logging.getLogger("flo.clients.records.extract")

SCHEMA_VERSION = 3
_UNSENT = ".unsent"


def extract_path(home: SiteHome, study: str) -> Path:
    """Return the path of the site's latest extract for a study."""
    return home.directory / "extracts" / f"{study}.json"


def keep(home: SiteHome, study: str, document: bytes) -> None:
    """Write an extract and mark it as unsent."""
    write_private(_unsent(home, study), b"")
    write_private(extract_path(home, study), document)


def send_kept(home: SiteHome, api: CoordinatorApi) -> None:
    """Send every extract marked as unsent. A mark stays if sending may succeed later.

    Raises:
        RefusedError: this site is halted, or the coordinator is busy. NetworkError.
    """
    for mark in sorted((home.directory / "extracts").glob(f"*{_UNSENT}")):
        refuse_halted(home)
        study = mark.name.removesuffix(_UNSENT)
        try:
            document = extract_path(home, study).read_text(encoding="utf-8")
            api.call("reports", {"study": study, "extract": document})
        except (MessageError, TrustError) as error:  # another attempt would be refused, too
            log.warning(f"the extract is stored here, but the coordinator refused it: {error}")
        except FileNotFoundError:  # the agent was killed before it wrote the extract
            log.warning(f"the extract of study {study[:12]} is missing; write it: flo site extract")
        mark.unlink(missing_ok=True)


def _unsent(home: SiteHome, study: str) -> Path:
    return home.directory / "extracts" / f"{study}{_UNSENT}"


def make_extract(
    home: SiteHome, ledger: Ledger, study: str, layers: dict[str, bool] | None = None
) -> bytes:
    """Return the canonical bytes of the signed extract.

    ``layers``: confinement of the process that holds patients; None if no agent states it.

    Raises:
        RefusedError: the study is not approved.
    """
    approved = approval.read(home, study)
    signer = home.read_coordinator().signer_of(approved.study.encode(), approved.study_signature)
    identity = home.open_identity()
    body: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "hospital": home.read_config().hospital,
        "study": approved.study,
        "study_signature": approved.study_signature,
        "coordinator": signer,
        "decision": approved.decision,
        "decision_signature": approved.decision_signature,
        "reservation": approved.reservation,
        "population": approved.population,
        "rows": [
            (row if _shows(row.private, row.public, study) else row.hidden()).as_document()
            for row in ledger.rows()
        ],
        "witnessed": {
            name: head.model_dump(mode="json") for name, head in ledger.witnessed().items()
        },
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "software": software() | {"confinement": _named(layers)},
        "public": identity.public.hex(),
    }
    home.record("extract-signed", study, rows=len(body["rows"]))
    return canonical.encode(
        {"body": body, "signature": identity.sign("extract", canonical.encode(body))}
    )


def _named(layers: dict[str, bool] | None) -> str:
    if layers is None:
        return "not stated"
    return ", ".join(name for name, holds in layers.items() if holds) or "none"


def _shows(private: dict[str, Any] | None, public: dict[str, Any], study: str) -> bool:
    return public["kind"] != "birth" and private is not None and private.get("study") == study
