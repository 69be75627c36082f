"""A signed extract of the site's ledger, for one study: everything an auditor may see.

All rows from birth on, chained; rows of other studies show mechanism and counts but no names.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flo import canonical
from flo.clients import approval
from flo.clients.home import SiteHome
from flo.environment import software
from flo.privacy.ledger import Ledger

SCHEMA_VERSION = 3


def extract_path(home: SiteHome, study: str) -> Path:
    """Where the site keeps its latest extract for a study."""
    return home.directory / "extracts" / f"{study}.json"


def make_extract(
    home: SiteHome, ledger: Ledger, study: str, layers: dict[str, bool] | None = None
) -> bytes:
    """Canonical bytes of the signed extract.

    ``layers``: what confines the process that holds patients; None where no agent says so.

    Raises:
        RefusedError: the study is not approved.
    """
    approved = approval.read(home, study)
    signer = home.coordinator.signer_of(approved.study.encode(), approved.study_signature)
    identity = home.identity()
    body: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "hospital": home.config.hospital,
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
