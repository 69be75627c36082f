"""Stored replies: every release is written, encrypted and flushed before its ledger row exists.

A repeated request must get identical bits for as long as the coordinator may ask again, so replies
stay until the study is settled. A masked reply is stored masked, so that a restarted site, whose
run key is gone, can send it again. With local noise the noisy vector is stored too: a retry masks
it again. With distributed noise it is never stored: a share of noise serves one attempt.
"""

from __future__ import annotations

from pathlib import Path

from flo.documents import canonical
from flo.keys.keystore import KeyStore
from flo.protocol.messages import Values, values_bytes, values_from
from flo.storage.files import write_private


class ReplyStore:
    """Stored replies of one site, by study and digest, each sealed for its own entry."""

    def __init__(self, directory: Path, keystore: KeyStore) -> None:
        self._directory, self._keystore = directory, keystore

    def store(self, study: str, values: Values) -> str:
        """Write and flush the values; return the digest that the ledger row names."""
        data = values_bytes(values)
        digest = canonical.digest(data)
        sealed = self._keystore.seal(self._context(study, digest), data)
        write_private(self._path(study, digest), sealed)
        return digest

    def load(self, study: str, digest: str, ring: int, length: int) -> Values | None:
        """Return the same bits, or None if they were deleted. Raises TrustError if changed.

        ``ring``: 32 or 64 for a reply stored masked, else 0. ``length``: how many numbers it has.
        """
        path = self._path(study, digest)
        if not path.exists():
            return None
        data = self._keystore.open(self._context(study, digest), path.read_bytes())
        return values_from(data, ring, bits=32 if len(data) == 4 * length else 64)

    def forget(self, study: str) -> None:
        """Delete the replies of a settled study."""
        for pattern in (f"{study[:32]}-*.sealed", f".{study[:32]}-*.sealed.*"):  # with partial ones
            for path in self._directory.glob(pattern):
                path.unlink()

    def _path(self, study: str, digest: str) -> Path:
        return self._directory / f"{study[:32]}-{digest[:32]}.sealed"

    @staticmethod
    def _context(study: str, digest: str) -> dict[str, str]:
        return {"purpose": "kept-reply", "study": study, "reply": digest}
