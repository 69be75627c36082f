"""Canonical bytes: one document, one byte string, one digest.

JSON with sorted keys, no spaces, UTF-8, finite numbers only. What is signed or hashed anywhere in
FLO is made here, and what comes from another party is read here, under limits of its size, its
depth and how many values it has: before a parser sees it, which would hold all of them in memory.
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
FEW = 200_000  # values of a document that has no ledger in it
_DEEPEST = 64  # values within values
_PIECE = 1 << 20  # bytes that are looked at together
_ESCAPED = re.compile(rb"\\.", re.DOTALL)
# Each byte is looked at once: a string without an end goes on to the end of the data.
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
    whatever could not be written again (lone surrogates). ``what`` names the document in the error.

    Raises:
        MessageError: with the rule that was broken.
    """
    value = _read(data, limit, what, values)
    if b"\\u" in data:  # which may spell half a character
        _written(value, what)
    return value


def decode_canonical(data: bytes, *, limit: int, what: str, values: int = FEW) -> Any:
    """Like ``decode``, and also demands that ``data`` is the canonical form of what it says."""
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
            data.decode("utf-8"),  # and not in the encoding that the bytes suggest
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_float=_finite,
        )
    except (ValueError, RecursionError) as error:
        raise MessageError(f"{what}: not valid JSON ({error})") from error


def refuse_crowded(data: bytes, what: str, values: int) -> None:
    """Raises MessageError for more values than this, or too many within each other.

    By the commas and brackets outside of strings: counting them takes little time and memory.
    """
    commas = both = depth = 0
    for outside in _outside_strings(data):
        brackets = outside.translate(None, _NO_BRACKET)
        commas, both = commas + outside.count(b","), both + len(brackets)
        if commas + both // 2 + 1 > values:
            raise MessageError(f"{what}: more than {values} values")
        steps = itertools.accumulate(map(_STEP.__getitem__, brackets), initial=depth)
        if max(steps) > _DEEPEST:
            raise MessageError(f"{what}: more than {_DEEPEST} values within each other")
        depth += sum(map(_STEP.__getitem__, brackets))


def _outside_strings(data: bytes) -> Iterator[bytes]:
    """The text outside of strings, piece by piece, so that the whole is never copied.

    A backslash outside of a string may confuse this, and a parser ends there with an error.
    """
    begin, within = 0, False
    while begin < len(data):
        end = begin + _PIECE
        while data[end - 1 : end] == b"\\":  # what it escapes stays with it
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
        raise ValueError("a number too large")
    return number


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not allowed")
