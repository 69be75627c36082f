"""Large vectors of a run's saved states: each one is sealed in a separate object, written once.

A state is saved twice per round but changes its vectors once. So a vector that is already stored is
referenced again instead of being written, for at most ``REUSED`` states. The order of a save: write
vectors, write the state that references them, remove objects that no state needs any more.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from flo.errors import TrustError, UsageError
from flo.keys import sealed
from flo.keys.keystore import AesKeyStore, Context, KeyStore
from flo.protocol.messages import MAX_MESSAGE_BYTES
from flo.storage.artifacts import ArtifactStore, LocalArtifacts
from flo.study.parameters import Vector

REUSED = 64
_SEALED_MORE = 65_536  # header, nonce, tag


class KeptVectors:
    """Stored vectors of one run, as one process sees them. ``context``: purpose, study and run."""

    def __init__(self, artifacts: ArtifactStore, keystore: KeyStore, context: Context) -> None:
        self._artifacts, self._keystore, self._context = artifacts, keystore, context
        self._kept: dict[str, tuple[Vector, int, str]] = {}  # name -> vector, state, key

    def keep(self, name: str, vector: Vector, number: int, key: str) -> str:
        """Store a vector under ``key`` for the state with this number, unless it is stored already.

        Returns the key under which it is stored.
        """
        kept, before, known = self._kept.get(name, (None, 0, ""))
        if kept is vector and number - before < REUSED:
            return known
        del kept
        self._kept.pop(name, None)  # free the previous vector, which may be large, first
        little = np.ascontiguousarray(vector, dtype=vector.dtype.newbyteorder("<"))
        context = self._context | {"vector": key}
        self._put(key, context, little.data.cast("B"))
        self._kept[name] = (vector, number, key)
        return key

    def _put(self, key: str, context: Context, data: memoryview) -> None:
        keystore, artifacts = self._keystore, self._artifacts
        if isinstance(keystore, AesKeyStore) and isinstance(artifacts, LocalArtifacts):
            artifacts.put_pieces(key, sealed.pieces(keystore, context, data))  # no full copy
        else:
            artifacts.put(key, sealed.seal(keystore, context, data))

    def forget_all_but(self, keys: Collection[str]) -> None:
        """Drop vectors that the last state does not use, as the velocity after training."""
        self._kept = {name: kept for name, kept in self._kept.items() if kept[2] in keys}

    def load(self, name: str, key: str, kind: np.dtype[Any], length: int) -> Vector:
        """Load a vector. Raises TrustError if it is missing, is another vector, or was changed."""
        what = f"the saved {name} ({key})"
        try:
            kept = self._artifacts.get(key, MAX_MESSAGE_BYTES + _SEALED_MORE)
        except UsageError as error:
            raise TrustError(f"{what} are missing") from error
        raw = sealed.unseal(self._keystore, self._context | {"vector": key}, kept, what)
        if len(raw) != length * kind.itemsize:
            raise TrustError(f"{what} have {len(raw)} bytes, not {length * kind.itemsize}")
        return np.frombuffer(raw, dtype=kind).astype(kind.newbyteorder("="))
