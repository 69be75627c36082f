"""All that a job elsewhere is given: where the coordinator is, and keys and secrets of one run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import StringConstraints

from flo import canonical
from flo.claims import Digest
from flo.settings import Document, parse

PREFIX = "/job/"  # of the paths at which a job's SuperExec and ServerApp reach Flower
PATIENCE_SECONDS = 300.0  # for a coordinator that restarts
_LIMIT = 1 << 18
_Secret = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class JobAccess(Document):
    """Sealed for its job. ``superexec_secret``, ``study_key``: 32 bytes each, hexadecimal."""

    schema_version: Literal[1] = 1
    url: Annotated[str, StringConstraints(pattern=r"^https://[^/\s]{1,253}$")]
    ca: Annotated[str, StringConstraints(max_length=8192)]
    job: Annotated[str, StringConstraints(pattern=r"^flo-run-[0-9a-f-]{1,40}$")]
    run: Annotated[str, StringConstraints(pattern=r"^run-[0-9a-f]{1,16}-[0-9a-f]{6}$")]
    study: Digest
    token: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._=-]{1,2048}$")]
    superexec_secret: _Secret
    study_key: _Secret

    def to_bytes(self) -> bytes:
        return canonical.encode(self.model_dump(mode="json"))

    @classmethod
    def from_bytes(cls, data: bytes) -> JobAccess:
        """Raises MessageError, UsageError if it is none."""
        document = canonical.decode(data, limit=_LIMIT, what="the job's access")
        return parse(cls, document, "the job's access")
