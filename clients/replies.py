"""Kept replies: every release is written, encrypted and flushed before its ledger row exists.

The same request must get identical bits for as long as the coordinator may ask again, so replies
stay until the study is settled.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from flo import canonical
from flo.files import write_private
from flo.keystore import KeyStore


class KeptReplies:
    def __init__(self, directory: Path, keystore: KeyStore) -> None:
        self._directory, self._keystore = directory, keystore

    def keep(self, study: str, values: npt.NDArray[np.int64]) -> str:
        """Write and flush a release; returns the digest that the ledger row names."""
        data = np.ascontiguousarray(values, dtype="<i8").tobytes()
        digest = canonical.digest(data)
        sealed = self._keystore.seal(self._context(study, digest), data)
        write_private(self._path(study, digest), sealed)
        return digest

    def load(self, study: str, digest: str) -> npt.NDArray[np.int64] | None:
        """The same bits again, or None if they were burnt. Raises TrustError if changed."""
        path = self._path(study, digest)
        if not path.exists():
            return None
        data = self._keystore.open(self._context(study, digest), path.read_bytes())
        return np.frombuffer(data, dtype="<i8").astype(np.int64)

    def forget(self, study: str) -> None:
        """Remove the replies of a settled study."""
        for pattern in (f"{study[:32]}-*.sealed", f".{study[:32]}-*.sealed.*"):  # and cut-off ones
            for path in self._directory.glob(pattern):
                path.unlink()

    def _path(self, study: str, digest: str) -> Path:
        return self._directory / f"{study[:32]}-{digest[:32]}.sealed"

    @staticmethod
    def _context(study: str, digest: str) -> dict[str, str]:
        return {"purpose": "kept-reply", "study": study, "reply": digest}
