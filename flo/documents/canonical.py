"""Canonical bytes: one document, one byte string, one digest.

JSON with sorted keys, no spaces, UTF-8, finite numbers only. This module encodes the documents that
FLO signs or hashes, and decodes documents of other parties under limits on size, depth and number
of values. The limits are checked first, because a parser would hold all values in memory.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterator
from typing import Any

from flo.errors import MessageError

Bytes = bytes | memoryview
FEW = 200_000  # limit on values of a document that contains no ledger
_DEEPEST = 64  # limit on nesting
_PIECE = 1 << 20  # bytes scanned at a time
_ESCAPED = re.compile(rb"\\.", re.DOTALL)
# Linear time: each byte is read once, and an unterminated string extends to the end of the data.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_NO_BRACKET = bytes(sorted(set(range(256)) - set(b"[]{}")))
_STEP = {**dict.fromkeys(b"[{", 1), **dict.fromkeys(b"]}", -1)}


def encode(value: Any) -> bytes:
    """Canonical JSON bytes of ``value``. Raises ValueError on NaN or infinity."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode("utf-8")


def digest(data: Bytes) -> str:
    """SHA-256 of ``data`` as 64 lowercase hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def decode(data: bytes, *, limit: int, what: str, values: int = FEW) -> Any:
    """Parse JSON from another party.

    Refuses more than ``limit`` bytes or about ``values`` values, duplicate keys, NaN, infinity, and
    text that cannot be encoded again (lone surrogates). ``what`` names the document in the error.

    Raises:
        MessageError: with the rule that was broken.
    """
    value = _read(data, limit, what, values)
    if b"\\u" in data:  # an escape may be a lone surrogate
        _written(value, what)
    return value


def decode_canonical(data: bytes, *, limit: int, what: str, values: int = FEW) -> Any:
    """Parse like ``decode``, and require that ``data`` is in canonical form."""
    value = _read(data, limit, what, values)
    if _written(value, what) != data:
        raise MessageError(f"{what}: not in canonical form")
    return value


def _written(value: Any, what: str) -> bytes:
    try:
        return encode(value)
    except ValueError as error:
        raise MessageError(f"{what}: not valid JSON ({error})") from error


def _read(data: bytes, limit: int, what: str, values: int) -> Any:
    if len(data) > limit:
        raise MessageError(f"{what}: {len(data)} bytes, limit {limit}")
    refuse_crowded(data, what, values)
    try:
        return json.loads(
            data.decode("utf-8"),  # from bytes, ``json.loads`` would guess the encoding
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_float=_finite,
        )
    except (ValueError, RecursionError) as error:
        raise MessageError(f"{what}: not valid JSON ({error})") from error


def refuse_crowded(data: bytes, what: str, values: int) -> None:
    """Raises MessageError for more than ``values`` values or too deep nesting.

    Counts commas and brackets outside of strings, which takes little time and memory.
    """
    commas = both = depth = 0
    for outside in _outside_strings(data):
        brackets = outside.translate(None, _NO_BRACKET)
        commas, both = commas + outside.count(b","), both + len(brackets)
        if commas + both // 2 + 1 > values:
            raise MessageError(f"{what}: more than {values} values")
        steps = itertools.accumulate(map(_STEP.__getitem__, brackets), initial=depth)
        if max(steps) > _DEEPEST:
            raise MessageError(f"{what}: values nested more than {_DEEPEST} deep")
        depth += sum(map(_STEP.__getitem__, brackets))


def _outside_strings(data: bytes) -> Iterator[bytes]:
    """Yield the text outside of strings in pieces, so that the whole is never copied.

    A backslash outside of a string may make the pieces wrong; the JSON parser then fails on it.
    """
    begin, within = 0, False
    while begin < len(data):
        end = begin + _PIECE
        while data[end - 1 : end] == b"\\":  # keep a backslash with the byte that it escapes
            end += 1
        piece = data[begin:end]
        unescaped = _ESCAPED.sub(b"", piece) if b"\\" in piece else piece
        yield _STRING.sub(b"", b'"' + piece if within else piece)
        within ^= bool(unescaped.count(b'"') % 2)
        begin = end


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate key")
    return result


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not allowed")
