"""Canonical bytes: one document, one byte string, one digest.

JSON with sorted keys, no spaces, UTF-8, finite numbers only. What is signed or hashed anywhere in
FLO is made here, and what comes from another party is read here, under a size limit.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from flo.errors import MessageError


def encode(value: Any) -> bytes:
    """Canonical JSON bytes of ``value``. Raises ValueError on NaN or infinity."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode("utf-8")


def digest(data: bytes) -> str:
    """SHA-256 of ``data`` as 64 lowercase hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def decode(data: bytes, *, limit: int, what: str) -> Any:
    """Parse JSON from another party.

    Refuses more than ``limit`` bytes, duplicate keys, NaN and infinity. ``what`` names the
    document in the error.

    Raises:
        MessageError: with the rule that was broken.
    """
    if len(data) > limit:
        raise MessageError(f"{what}: {len(data)} bytes, limit {limit}")
    try:
        return json.loads(data, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise MessageError(f"{what}: not valid JSON ({error})") from error


def decode_canonical(data: bytes, *, limit: int, what: str) -> Any:
    """Like ``decode``, and also demands that ``data`` is the canonical form of what it says."""
    value = decode(data, limit=limit, what=what)
    if encode(value) != data:
        raise MessageError(f"{what}: not in canonical form")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate key")
    return result


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not allowed")
