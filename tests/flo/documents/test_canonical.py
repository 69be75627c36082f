"""One document, one byte string; what another party sends is refused by rule, never by accident."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flo.documents import canonical
from flo.errors import MessageError

LIMIT = 10_000
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # lone surrogates cannot be written as UTF-8
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abc"), inner),
    max_leaves=10,
)


@given(JSON)
def test_what_is_encoded_is_read_back_and_is_canonical(value: Any) -> None:
    data = canonical.encode(value)
    assert canonical.decode_canonical(data, limit=1 << 20, what="x") == value


def test_the_order_of_keys_does_not_change_the_bytes() -> None:
    assert canonical.encode({"b": 1, "a": "é"}) == '{"a":"é","b":1}'.encode()
    assert canonical.encode({"a": "é", "b": 1}) == canonical.encode({"b": 1, "a": "é"})


def test_a_known_digest() -> None:
    # SHA-256 of "abc", FIPS 180-2 appendix B.1
    assert canonical.digest(b"abc") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_not_finite_is_never_encoded(value: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical.encode({"x": value})


@pytest.mark.parametrize(
    ("data", "why"),
    [
        pytest.param(b'{"a":1,"a":2}', "duplicate key", id="duplicate key"),
        pytest.param(b'[{"b":{"a":1,"a":1}}]', "duplicate key", id="duplicate key, nested"),
        pytest.param(b'{"a":NaN}', "NaN is not allowed", id="NaN"),
        pytest.param(b"[-Infinity]", "-Infinity is not allowed", id="infinity"),
        pytest.param(b"1" * 6000, "not valid JSON", id="number of too many digits"),
        pytest.param(b'"' + b"x" * LIMIT + b'"', "limit 10000", id="too large"),
        pytest.param(b"[" * 9_000, "values nested more than 64 deep", id="deep nesting"),
        pytest.param(
            b"[" * 4_000 + b"]" * 4_000,
            "values nested more than 64 deep",
            id="deep nesting, closed",
        ),
        pytest.param(b"", "not valid JSON", id="empty"),
        pytest.param(b"\xff\xfe\xfa", "not valid JSON", id="not UTF-8"),
        pytest.param(b'{"a":1', "not valid JSON", id="cut off"),
    ],
)
@pytest.mark.parametrize("decode", [canonical.decode, canonical.decode_canonical])
def test_a_document_that_breaks_a_rule_is_refused(
    decode: Callable[..., Any], data: bytes, why: str
) -> None:
    with pytest.raises(MessageError, match=why) as refusal:
        decode(data, limit=LIMIT, what="letter")
    assert str(refusal.value).startswith("letter:")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b'{"a": 1}', id="space"),
        pytest.param(b'{"b":1,"a":2}', id="order"),
        pytest.param(b'"\\u0061"', id="escape"),
        pytest.param(b"1.50", id="trailing zero"),
        pytest.param(b"1\n", id="newline"),
    ],
)
def test_another_spelling_of_the_same_document_is_refused(data: bytes) -> None:
    canonical.decode(data, limit=LIMIT, what="letter")
    with pytest.raises(MessageError, match="not in canonical form"):
        canonical.decode_canonical(data, limit=LIMIT, what="letter")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "utf-8-sig"])
def test_another_encoding_in_which_values_would_not_be_counted_is_refused(encoding: str) -> None:
    crowded = ('["\u0122",' + "{}," * 300_000 + "0]").encode(encoding)
    for data in ('{"a":1}'.encode(encoding), crowded):
        with pytest.raises(MessageError, match=r"not valid JSON|more than \d+ values"):
            canonical.decode(data, limit=1 << 24, what="letter")


@pytest.mark.parametrize("data", [b"1e999", b'{"a":[-1e999]}'])
def test_a_number_too_large_to_be_finite_is_refused(data: bytes) -> None:
    with pytest.raises(MessageError):
        canonical.decode(data, limit=LIMIT, what="letter")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"1e999", id="overflows to infinity"),
        pytest.param(b'"\\ud800"', id="lone surrogate"),
        pytest.param(b'{"\\udfff":1}', id="lone surrogate as a key"),
    ],
)
def test_what_json_reads_but_cannot_be_written_is_refused(data: bytes) -> None:
    with pytest.raises(MessageError):
        canonical.decode_canonical(data, limit=LIMIT, what="letter")


@pytest.mark.parametrize("depth", range(100, 2000, 50))
def test_no_depth_of_nesting_escapes_as_another_error(depth: int) -> None:
    data = b"[" * depth + b"]" * depth
    with contextlib.suppress(MessageError):
        canonical.decode_canonical(data, limit=LIMIT, what="letter")


_TEXT = st.recursive(
    st.none() | st.integers() | st.text(st.sampled_from('a",[]{}:\\\\\n'), max_size=9),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
)


@pytest.mark.slow
@given(_TEXT, st.integers(1, 40))
def test_values_are_counted_alike_wherever_the_pieces_end(value: Any, piece: int) -> None:
    data = json.dumps(value).encode()

    def refused(limit: int) -> bool:
        try:
            canonical.refuse_crowded(data, "letter", limit)
        except MessageError:
            return True
        return False

    whole = next(limit for limit in range(10**6) if not refused(limit))
    with mock.patch.object(canonical, "_PIECE", piece):
        assert not refused(whole)
        assert not whole or refused(whole - 1)
