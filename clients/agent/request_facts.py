"""Facts of a request: its key, its cohort's digest, and those that a ledger row records."""

from __future__ import annotations

from typing import Any

from flo.privacy.secure_sum.masking import cohort_digest
from flo.protocol.messages import ReplyHeader, RequestHeader


def request_key(header: RequestHeader | ReplyHeader) -> str:
    """Return the identity of a request: study, run, purpose, round and attempt."""
    return "/".join(
        (header.study, header.run, header.purpose, str(header.round), str(header.attempt))
    )


def row_facts(header: RequestHeader, reply: str, sent: str) -> dict[str, Any]:
    """Return what a ledger row records of a release. ``reply``, ``sent``: digests of its values."""
    return {
        "study": header.study,
        "run": header.run,
        "round": header.round,
        "attempt": header.attempt,
        "model": header.model,
        "cohort": cohort_of(header),
        "reply": reply,
        "sent": sent,
    }


def cohort_of(header: RequestHeader) -> str:
    """Return the digest of the request's cohort."""
    return cohort_digest(header.members())
