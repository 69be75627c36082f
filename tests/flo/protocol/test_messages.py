"""What travels during a run: round trips, and every malformed message ends in MessageError."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flo.errors import MessageError, TrustError
from flo.keys.claims import HeadAttestation, LedgerHead, ListSignature, RunKey, row_statement
from flo.keys.identity import Identity
from flo.protocol import messages
from flo.protocol.deals import Deal
from flo.protocol.messages import (
    Reply,
    ReplyHeader,
    Request,
    RequestHeader,
    decode_reply,
    decode_request,
    divided,
    encode_reply,
    model_digest,
    request_header_of,
)
from tests.partners import encode_request

DEALT = {"number": 1, "key": "c" * 64, "signature": "0" * 128}
WEIGHTS = np.array([0.5, -1.25, 3e-300])
HEAD = {"sequence": 3, "hash": "b" * 64, "signature": "cd", "public": "ef"}
KEY = {"epoch": 1, "key": "c" * 64, "deals": "e" * 64, "signature": "cd", "public": "ef"}
VOUCHER = {
    **{"hospital": "d" * 64, "key": "c" * 64, "head": HEAD},
    **{"signature": "cd", "public": "ef"},
}


def request_header(**changes: Any) -> dict[str, Any]:
    header: dict[str, Any] = {
        "kind": "release",
        "study": "a" * 64,
        "run": "run-1",
        "purpose": "training",
        "round": 1,
        "attempt": 1,
        "cohort": ["north", "south"],
        "model": model_digest(WEIGHTS),
        "bits": 64,
        "heads": {"north": HEAD},
        "keys": {"north": KEY},
        "vouchers": {"north": VOUCHER},
        "deals": {"north": DEALT},
        "sealed": {"north": "ab" * 20},
        "survivors": ["north"],
        "signatures": {"north": {"signature": "cd", "public": "ef"}},
    }
    return {**header, **changes}


def reply_header(**changes: Any) -> dict[str, Any]:
    header: dict[str, Any] = {
        "kind": "release",
        "hospital": "north",
        "study": "a" * 64,
        "run": "run-1",
        "purpose": "training",
        "round": 1,
        "attempt": 1,
        "model": model_digest(WEIGHTS),
        "head": HEAD,
        "code": None,
    }
    return {**header, **changes}


def packed(header: Any, body: bytes) -> bytes:
    """A message from a peer who minds no schema."""
    head = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    return len(head).to_bytes(4, "big") + head + body


def request(**changes: Any) -> bytes:
    return packed(request_header(**changes), WEIGHTS.tobytes())


def reply(**changes: Any) -> bytes:
    return packed(reply_header(**changes), b"\x01" * 24)


def with_weights(*weights: float) -> bytes:
    values = np.array(weights)
    return packed(request_header(model=model_digest(values)), values.tobytes())


def test_a_request_reads_back() -> None:
    sent = Request(RequestHeader.model_validate(request_header()), WEIGHTS)
    got = decode_request(encode_request(sent))
    assert got.header == sent.header
    np.testing.assert_array_equal(got.weights, WEIGHTS)
    assert got.weights.dtype == np.float64
    assert encode_request(got) == encode_request(sent) == request()


def test_fields_that_an_earlier_version_does_not_know_are_not_sent_empty() -> None:
    later: dict[str, Any] = {"deals": {}, "sealed": {}, "survivors": [], "signatures": {}}
    known = {name: value for name, value in request_header().items() if name not in later}
    before = {name: value for name, value in KEY.items() if name != "deals"}
    header = known | {"keys": {"north": before}}
    sent = Request(RequestHeader.model_validate(header | later), WEIGHTS)
    assert encode_request(sent) == packed(header, WEIGHTS.tobytes())
    assert decode_request(encode_request(sent)).header == sent.header


def test_a_model_of_single_precision_takes_half_the_bytes() -> None:
    weights = WEIGHTS.astype(np.float32)
    header = request_header(model=model_digest(weights), bits=32)
    sent = Request(RequestHeader.model_validate(header), weights)
    data = encode_request(sent)
    got = decode_request(data)
    assert got.weights.dtype == np.float32
    assert got.weights.tobytes() == weights.tobytes()
    assert model_digest(weights) != model_digest(WEIGHTS)
    with pytest.raises(MessageError, match="not a vector of 64-bit floats"):
        decode_request(packed({**header, "bits": 64}, weights[:1].tobytes()))
    with pytest.raises(MessageError, match=r"bits"):
        decode_request(packed({**header, "bits": 16}, weights.tobytes()))


def test_a_message_is_divided_where_its_header_ends() -> None:
    data = request()
    head, body = divided(data)
    assert (head + body, bytes(body)) == (data, WEIGHTS.tobytes())
    assert request_header_of(head) == request_header_of(data)
    for cut in (b"", data[:3], data[: len(head) - 1], b"\xff" * 8):
        with pytest.raises(MessageError, match=r"empty or incomplete|limit"):
            divided(cut)


def test_a_reply_reads_back_to_the_bit() -> None:
    values = np.array([0, -1, 2**63 - 1, -(2**63)], dtype=np.int64)
    sent = Reply(ReplyHeader.model_validate(reply_header()), values)
    got = decode_reply(encode_reply(sent))
    assert got.header == sent.header
    np.testing.assert_array_equal(got.values, values)


def test_a_reply_of_32_bits_says_so_and_takes_half_the_bytes() -> None:
    values = np.array([0, -1, 2**31 - 1, -(2**31)], dtype=np.int32)
    wide = Reply(ReplyHeader.model_validate(reply_header()), values.astype(np.int64))
    sent = Reply(wide.header.model_copy(update={"bits": 32}), values)
    got = decode_reply(encode_reply(sent))
    assert got.header == sent.header
    assert got.values.dtype == np.int32
    np.testing.assert_array_equal(got.values, values)
    assert len(divided(encode_reply(sent))[1]) == len(divided(encode_reply(wide))[1]) / 2
    assert b"bits" not in divided(encode_reply(wide))[0], "FLO 0.2 refuses the field"
    with pytest.raises(MessageError, match="not a vector of 4-byte numbers"):
        decode_reply(packed(reply_header(bits=32), b"\x01" * 6))
    with pytest.raises(MessageError, match=r"bits"):
        decode_reply(packed(reply_header(bits=16), b"\x01" * 6))


@pytest.mark.parametrize("purpose", ["survey", "training", "evaluation"])
def test_a_release_is_for_a_survey_for_training_or_for_evaluation(purpose: str) -> None:
    assert decode_request(request(purpose=purpose)).header.purpose == purpose
    assert decode_reply(reply(purpose=purpose)).header.purpose == purpose


def test_a_survey_is_asked_for_with_an_empty_model() -> None:
    nothing = np.zeros(0)
    header = request_header(purpose="survey", model=model_digest(nothing))
    got = decode_request(packed(header, b""))
    assert got.weights.shape == (0,)
    assert got.header.model == model_digest(nothing)
    with pytest.raises(MessageError, match="not the model"):
        decode_request(packed(header, WEIGHTS.tobytes()))


def test_the_model_digest_is_over_little_endian_bytes_whatever_the_layout() -> None:
    assert model_digest(WEIGHTS.astype(">f8")) == model_digest(WEIGHTS)
    assert model_digest(np.repeat(WEIGHTS, 2)[::2]) == model_digest(WEIGHTS)
    assert model_digest(-WEIGHTS) != model_digest(WEIGHTS)


MALFORMED = [
    pytest.param(lambda message: b"", "0 bytes", id="nothing"),
    pytest.param(lambda message: message()[:4], "4 bytes", id="only a length"),
    pytest.param(lambda message: message()[:60], "empty or incomplete", id="truncated header"),
    pytest.param(lambda message: message()[:-1], "not a vector", id="truncated body"),
    pytest.param(lambda message: message() + b"\0", "not a vector", id="longer body"),
    pytest.param(lambda message: b"\xff" * 4 + message()[4:], "limit", id="header length"),
    pytest.param(
        lambda message: message(run="a" * messages.MAX_HEADER_BYTES),
        "limit",
        id="oversize header",
    ),
    pytest.param(lambda message: packed([], b""), "document", id="header is a list"),
    pytest.param(lambda message: packed({}, b""), "Field required", id="header is empty"),
    pytest.param(lambda message: message(loss=0.1), "loss: Extra inputs", id="unknown field"),
    pytest.param(lambda message: message(kind="train"), "kind: ", id="unknown kind"),
    pytest.param(lambda message: message(purpose="census"), "purpose: ", id="unknown purpose"),
    pytest.param(lambda message: message(purpose="Survey"), "purpose: ", id="purpose in capitals"),
    pytest.param(lambda message: message(purpose=None), "purpose: ", id="no purpose"),
    pytest.param(lambda message: message(round=-1), "round: ", id="negative round"),
    pytest.param(lambda message: message(round=1.5), "round: ", id="half a round"),
    pytest.param(lambda message: message(attempt=0), "attempt: ", id="attempt 0"),
    pytest.param(lambda message: message(run="../run"), "run: ", id="path traversal"),
    pytest.param(lambda message: message(study="A" * 64), "study: ", id="upper-case digest"),
    pytest.param(lambda message: message(model="a" * 63), "model: ", id="short digest"),
    pytest.param(
        lambda message: message().replace(b'":', b'" :', 1)[:-8] + b"\0" * 8, "", id="space"
    ),
]


@pytest.mark.parametrize(("make", "fragment"), MALFORMED)
@pytest.mark.parametrize(
    ("message", "decode"), [(request, decode_request), (reply, decode_reply)], ids=["q", "a"]
)
def test_a_malformed_message_is_refused(
    make: Callable[[Any], bytes],
    fragment: str,
    message: Callable[..., bytes],
    decode: Callable[[bytes], object],
) -> None:
    with pytest.raises(MessageError) as refusal:
        decode(make(message))
    assert fragment in str(refusal.value)


@pytest.mark.parametrize(
    ("data", "fragment"),
    [
        pytest.param(request(model="a" * 64), "not the model", id="wrong model digest"),
        pytest.param(request()[:-8], "not the model", id="a weight less"),
        pytest.param(with_weights(1.0, float("nan")), "weights beyond", id="NaN weight"),
        pytest.param(with_weights(float("inf")), "weights beyond", id="infinite weight"),
        pytest.param(request(cohort=["south", "north"]), "not sorted", id="unsorted cohort"),
        pytest.param(request(cohort=["north", "north"]), "not sorted", id="twice in the cohort"),
        pytest.param(request(cohort=[]), "cohort: ", id="empty cohort"),
        pytest.param(request(cohort="north"), "cohort: ", id="cohort is text"),
        pytest.param(request(round=1_000_001), "round: ", id="round too large"),
        pytest.param(request(heads={"north": {}}), "heads.north.sequence", id="empty head"),
        pytest.param(request(heads={"../x": HEAD}), "heads", id="head of a path"),
        pytest.param(request(heads={"north": {**HEAD, "sequence": 0}}), "sequence", id="row 0"),
        pytest.param(
            request(heads={"north": {**HEAD, "sequence": 2**53 + 1}}), "sequence", id="row too high"
        ),
        pytest.param(request(attempt=17), "attempt: ", id="attempt 17"),
    ],
)
def test_a_malformed_request_is_refused(data: bytes, fragment: str) -> None:
    with pytest.raises(MessageError) as refusal:
        decode_request(data)
    assert fragment in str(refusal.value)


@pytest.mark.parametrize(
    ("data", "fragment"),
    [
        pytest.param(reply(code="age is 98765"), "code: ", id="a code that is not public"),
        pytest.param(reply(hospital="No rth"), "hospital: ", id="malformed hospital"),
        pytest.param(reply(head=None), "head: ", id="no head"),
        pytest.param(reply(head={**HEAD, "hash": "zz"}), "head.hash: ", id="malformed hash"),
        pytest.param(
            reply(head={**HEAD, "patients": 3}), "head.patients: Extra", id="more in head"
        ),
        pytest.param(
            reply(head={**HEAD, "signature": "a" * 301}), "head.signature", id="long signature"
        ),
        pytest.param(reply(head={**HEAD, "public": "abc"}), "head.public", id="half a key byte"),
        pytest.param(reply(head={**HEAD, "public": "ab" * 201}), "head.public", id="long key"),
    ],
)
def test_a_malformed_reply_is_refused(data: bytes, fragment: str) -> None:
    with pytest.raises(MessageError) as refusal:
        decode_reply(data)
    assert fragment in str(refusal.value)


def test_a_header_that_is_not_canonical_is_refused() -> None:
    head = json.dumps(request_header()).encode()
    with pytest.raises(MessageError, match="not in canonical form"):
        decode_request(len(head).to_bytes(4, "big") + head + WEIGHTS.tobytes())


def test_a_message_over_the_limit_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "MAX_MESSAGE_BYTES", len(request()) - 1)
    with pytest.raises(MessageError, match="limit"):
        decode_request(request())


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b'"round":1e999', id="infinite round"),
        pytest.param(b'"round":1,"run":"\\ud800"', id="lone surrogate"),
    ],
)
def test_a_header_that_json_reads_but_cannot_write_is_refused(text: bytes) -> None:
    head = json.dumps(request_header(), sort_keys=True, separators=(",", ":")).encode()
    head = head.replace(b'"run":"run-1",', b"").replace(b'"round":1', text)
    with pytest.raises(MessageError):
        decode_request(len(head).to_bytes(4, "big") + head + WEIGHTS.tobytes())


Edit = tuple[int, bytes, int]


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from([(request(), decode_request), (reply(), decode_reply)]),
    st.lists(
        st.tuples(st.integers(0, 600), st.binary(max_size=6), st.integers(0, 6)),
        min_size=1,
        max_size=4,
    ),
)
def test_no_mutation_of_a_message_raises_anything_but_a_message_error(
    case: tuple[bytes, Callable[[bytes], object]], edits: list[Edit]
) -> None:
    data, decode = case
    for place, new, removed in edits:
        data = data[:place] + new + data[place + removed :]
    with contextlib.suppress(MessageError):
        decode(data)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([decode_request, decode_reply]),
    st.dictionaries(
        st.sampled_from(sorted({*request_header(), *reply_header()})),
        st.recursive(
            st.none()
            | st.integers()
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
            lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.just("x"), inner),
            max_leaves=4,
        ),
    ),
)
def test_no_value_of_any_field_raises_anything_but_a_message_error(
    decode: Callable[[bytes], object], changes: dict[str, Any]
) -> None:
    header = request_header() if decode is decode_request else reply_header()
    with contextlib.suppress(MessageError):
        decode(packed({**header, **changes}, WEIGHTS.tobytes()))


def test_a_site_can_send_these_fields_and_nothing_else() -> None:
    # Whoever adds a field adds something that leaves a hospital: it is a release (DESIGN 5), so
    # say in docs what it tells about patients, and what it costs, before changing this list.
    assert set(ReplyHeader.model_fields) == {
        *("kind", "hospital", "study", "run", "purpose", "round", "attempt", "model", "head"),
        *("code", "cohort", "ring", "bits", "key", "vouchers", "deal", "signature", "shares"),
    }
    assert set(Deal.model_fields) == {
        *("number", "key", "signature", "commitments", "checks", "sealed"),
    }
    assert set(ListSignature.model_fields) == {"signature", "public"}
    assert set(LedgerHead.model_fields) == {"sequence", "hash", "signature", "public"}
    assert set(RunKey.model_fields) == {"epoch", "key", "deals", "signature", "public"}
    assert set(HeadAttestation.model_fields) == {
        *("hospital", "key", "head", "signature", "public"),
    }
    assert set(Reply.__dataclass_fields__) == {"header", "values"}
    assert ReplyHeader.model_config["extra"] == LedgerHead.model_config["extra"] == "forbid"


SIGNER = Identity.new()


def signed_head() -> LedgerHead:
    signature = SIGNER.sign("ledger-row", row_statement(3, "b" * 64))
    return LedgerHead(sequence=3, hash="b" * 64, signature=signature, public=SIGNER.public.hex())


def test_a_head_is_checked_by_whoever_knows_the_signers_fingerprint() -> None:
    signed_head().check(SIGNER.fingerprint)
    with pytest.raises(TrustError, match="another key"):
        signed_head().check(Identity.new().fingerprint)


@pytest.mark.parametrize(
    "changes", [{"sequence": 4}, {"hash": "c" * 64}, {"signature": "ab"}, {"public": "ef"}]
)
def test_a_head_with_anything_changed_is_no_claim_of_its_signer(changes: dict[str, Any]) -> None:
    with pytest.raises(TrustError):
        signed_head().model_copy(update=changes).check(SIGNER.fingerprint)


def test_a_site_refuses_with_one_of_these_codes_and_no_other_word() -> None:
    schema = ReplyHeader.model_json_schema()["properties"]["code"]
    assert set(schema["anyOf"][0]["enum"]) == {
        *("not-ready", "not-approved", "over-budget", "settled", "conflict", "malformed"),
        *("rolled-back", "stale-key", "unconfirmed"),
    }
