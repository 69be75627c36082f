"""Environment variables and file names that FLO adds to SageMaker's contract for containers."""

from __future__ import annotations

import hashlib

MODEL_VARIABLE, COORDINATORS_VARIABLE = "FLO_MODEL", "FLO_COORDINATORS"
PORT_VARIABLE, AT_ONCE_VARIABLE = "FLO_PORT", "FLO_AT_ONCE"
AT_ONCE, MOST_AT_ONCE = 512, 10_000  # requests of a container, unless the variable says otherwise
MODEL_FILE, NETWORK_FILE = "model.json", "model.onnx"


def digest_of(document: bytes, onnx: bytes) -> str:
    """Return what FLO_MODEL must be: SHA-256 of both, each by its own digest."""
    parts = [hashlib.sha256(one).digest() for one in (document, onnx)]
    return hashlib.sha256(b"".join(parts)).hexdigest()
