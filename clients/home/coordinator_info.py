"""``coordinator.json``: whom this hospital enrolled with, and the keys it believes."""

from __future__ import annotations

from contextlib import suppress
from typing import Literal

from flo.documents.document import Document
from flo.errors import TrustError
from flo.keys.identity import fingerprint, verify


class CoordinatorInfo(Document):
    """Where the coordinator is and which key signs its studies.

    ``earlier``: keys that the present one follows; what they signed while they were in use holds.
    """

    schema_version: Literal[1] = 1
    url: str
    public: str
    earlier: tuple[str, ...] = ()

    @property
    def fingerprints(self) -> list[str]:
        """Of the present key and of those it follows."""
        return [fingerprint(bytes.fromhex(key)) for key in (self.public, *self.earlier)]

    def signer_of(self, study: bytes, signature: str) -> str:
        """Which of the keys signed this study. Raises TrustError if none did."""
        for public in self.earlier:
            with suppress(TrustError):
                verify(bytes.fromhex(public), "study", study, signature)
                return public
        try:
            verify(bytes.fromhex(self.public), "study", study, signature)
        except TrustError as error:
            raise TrustError(
                str(error),
                hint="if the coordinator has a new key, compare it by telephone, then: "
                "flo site coordinator --accept FINGERPRINT",
            ) from error
        return self.public
