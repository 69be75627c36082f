"""Canonical bytes: one document, one byte string, one digest.

JSON with sorted keys, no spaces, UTF-8, finite numbers only. What is signed or hashed anywhere in
FLO is made here, and what comes from another party is read here, under a size limit.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

from flo.errors import MessageError

Bytes = bytes | memoryview


def encode(value: Any) -> bytes:
    """Canonical JSON bytes of ``value``. Raises ValueError on NaN or infinity."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode("utf-8")


def digest(data: Bytes) -> str:
    """SHA-256 of ``data`` as 64 lowercase hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def decode(data: bytes, *, limit: int, what: str) -> Any:
    """Parse JSON from another party.

    Refuses more than ``limit`` bytes, duplicate keys, NaN, infinity, and whatever could not be
    written again (lone surrogates). ``what`` names the document in the error.

    Raises:
        MessageError: with the rule that was broken.
    """
    return _read(data, limit, what)[0]


def decode_canonical(data: bytes, *, limit: int, what: str) -> Any:
    """Like ``decode``, and also demands that ``data`` is the canonical form of what it says."""
    value, canonical = _read(data, limit, what)
    if canonical != data:
        raise MessageError(f"{what}: not in canonical form")
    return value


def _read(data: bytes, limit: int, what: str) -> tuple[Any, bytes]:
    if len(data) > limit:
        raise MessageError(f"{what}: {len(data)} bytes, limit {limit}")
    try:
        value = json.loads(
            data, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite
        )
        return value, encode(value)
    except (ValueError, RecursionError) as error:
        raise MessageError(f"{what}: not valid JSON ({error})") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate key")
    return result


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number too large")
    return number


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not allowed")
