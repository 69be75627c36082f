"""``coordinator.json``: the coordinator of this hospital, and its trusted keys."""

from __future__ import annotations

from contextlib import suppress
from typing import Literal

from flo.documents.document import Document
from flo.errors import TrustError
from flo.keys.identity import fingerprint, verify


class CoordinatorInfo(Document):
    """Address of the coordinator and the key that signs its studies.

    ``earlier``: keys that the present one replaced; what they signed while in use stays valid.
    """

    schema_version: Literal[1] = 1
    url: str
    public: str
    earlier: tuple[str, ...] = ()

    @property
    def fingerprints(self) -> list[str]:
        """Fingerprints of the present key and of the earlier ones."""
        return [fingerprint(bytes.fromhex(key)) for key in (self.public, *self.earlier)]

    def signer_of(self, study: bytes, signature: str) -> str:
        """Return the key that signed this study. Raises TrustError if none did."""
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
