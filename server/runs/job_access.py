"""Documents for a remote job: the coordinator's address, and then, once, the job's keys.

``JobAccess`` is stored sealed in a bucket until the job opens it. Its token is valid for one call,
which returns ``JobKeys``: so a copy of the document gives no access afterwards, even unsealed.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import StringConstraints

from flo.documents import canonical
from flo.documents.document import Document, parse
from flo.keys.claims import Digest

PREFIX = "/job/"  # of a job's paths to Flower's runtime
PATIENCE_SECONDS = 300.0  # a coordinator may take this long to restart
_LIMIT = 1 << 18
_Token = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._=-]{1,2048}$")]
_Secret = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

HandedT = TypeVar("HandedT", bound="_Handed")


class _Handed(Document):
    """Document that is passed on as bytes."""

    @classmethod
    def from_bytes(cls: type[HandedT], data: bytes) -> HandedT:
        """Parse the document. Raises MessageError or UsageError if it is invalid."""
        document = canonical.decode(data, limit=_LIMIT, what="the job's document")
        return parse(cls, document, "the job's document")


class JobKeys(_Handed):
    """Keys of a job. ``superexec_secret``, ``study_key``: 32 bytes each, hexadecimal."""

    token: _Token
    superexec_secret: _Secret
    study_key: _Secret


class JobAccess(_Handed):
    """Launch document, sealed for its job."""

    schema_version: Literal[1] = 1
    url: Annotated[str, StringConstraints(pattern=r"^https://[^/\s]{1,253}$")]
    ca: Annotated[str, StringConstraints(max_length=8192)]
    job: Annotated[str, StringConstraints(pattern=r"^flo-run-[0-9a-f-]{1,40}$")]
    run: Annotated[str, StringConstraints(pattern=r"^run-[0-9a-f]{1,16}-[0-9a-f]{6}$")]
    study: Digest
    token: _Token
