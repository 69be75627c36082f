"""A decision of this hospital as a signed file, named by its digest.

The latest entry about it in the audit log says which one is in force, so an older one that is put
back has no effect. Comparisons, plans for alarms and rules on flags are read so.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Self, TypeVar

from flo.documents import canonical
from flo.documents.document import Document, read_json
from flo.errors import FloError, TrustError
from flo.keys.claims import PublicKey, Signature
from flo.keys.identity import Identity, verify

_LIMIT = 1 << 18
DecidedT = TypeVar("DecidedT", bound=Document)


class SignedDecision(Document):
    """Signed with the hospital's key. ``PURPOSE``: of the signature."""

    PURPOSE: ClassVar[str]
    public: PublicKey | Literal[""] = ""
    signature: Signature | Literal[""] = ""

    @property
    def digest(self) -> str:
        """SHA-256 of the signed document."""
        return canonical.digest(self.to_bytes())

    def signed(self, site: Identity) -> Self:
        """Return a copy that the hospital signed."""
        unsigned = self.model_copy(update={"public": site.public.hex(), "signature": ""})
        signature = site.sign(self.PURPOSE, unsigned._statement())
        return unsigned.model_copy(update={"signature": signature})

    def check(self, site: bytes) -> None:
        """Raise TrustError unless the hospital with the public key ``site`` signed it."""
        verify(site, self.PURPOSE, self._statement(), self.signature)

    def _statement(self) -> bytes:
        return canonical.encode(self.model_dump(mode="json", exclude={"signature"}))


def read_decided(kind: type[DecidedT], path: Path, digest: str, what: str, again: str) -> DecidedT:
    """Return the decision in a file, if its digest is the one that was decided.

    ``what``: a word for it, such as "plan". ``again``: what to do about one that cannot be used.

    Raises TrustError: it is missing, cannot be read, or is another one.
    """
    try:
        found = read_json(kind, path, limit=_LIMIT)
    except FileNotFoundError as error:
        raise TrustError(
            f"the {what} {path.name} is missing; a backup has no such files", hint=again
        ) from error
    except FloError as error:
        raise TrustError(f"the {what} cannot be read: {error}", hint=again) from error
    if canonical.digest(found.to_bytes()) != digest:
        raise TrustError(f"{path.name} is not the {what} that was decided", hint=again)
    return found
