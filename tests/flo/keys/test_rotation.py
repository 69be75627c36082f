"""A coordinator's next key counts only where both keys signed the step, and each step before it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flo.documents import canonical
from flo.errors import FloError, MessageError, TrustError, UsageError
from flo.keys.identity import Identity
from flo.keys.rotation import KeyRotation, RotationStep

FIRST, SECOND, THIRD, STRANGER = KEYS = tuple(Identity.new() for _ in range(4))
TIME = "2026-11-24T12:00:00+00:00"
PUBLIC = {identity: identity.public.hex() for identity in KEYS}
ONE = RotationStep.signed(FIRST, SECOND, TIME)
TWO = RotationStep.signed(SECOND, THIRD, TIME)


def chain(*steps: RotationStep) -> KeyRotation:
    """As a site reads it from the coordinator's answer."""
    made = KeyRotation(steps=steps)
    read = KeyRotation.read(canonical.encode(made.model_dump(mode="json")))
    assert read == made
    return read


@pytest.mark.parametrize("known", [FIRST, SECOND, THIRD])
def test_whoever_knows_any_key_of_a_chain_finds_its_newest(known: Identity) -> None:
    assert chain(ONE, TWO).newest_after(PUBLIC[known]) == PUBLIC[THIRD]


@pytest.mark.parametrize(
    ("steps", "known"),
    [
        ((), FIRST),
        ((ONE, TWO), STRANGER),
        ((TWO,), FIRST),  # the step from the key that is known is missing
        ((RotationStep.signed(STRANGER, THIRD, TIME),), FIRST),
    ],
    ids=["no step", "unknown key", "a step is missing", "anothers step"],
)
def test_a_key_that_nobody_signed_over_stays_the_newest(
    steps: tuple[RotationStep, ...], known: Identity
) -> None:
    assert chain(*steps).newest_after(PUBLIC[known]) == PUBLIC[known]


def test_steps_before_the_known_key_do_not_matter() -> None:
    broken = ONE.model_copy(update={"time": "long ago"})
    assert chain(broken, TWO).newest_after(PUBLIC[SECOND]) == PUBLIC[THIRD]
    with pytest.raises(TrustError, match="succession does not match"):
        chain(broken, TWO).newest_after(PUBLIC[FIRST])


@pytest.mark.parametrize(
    ("what", "changes"),
    [
        ("old key did not sign", {"old_signature": TWO.old_signature}),
        ("new key did not sign", {"new_signature": TWO.new_signature}),
        ("signed by the old key twice", {"new_signature": ONE.old_signature}),
        ("signed by the new key twice", {"old_signature": ONE.new_signature}),
        ("signatures swapped", {
            "old_signature": ONE.new_signature, "new_signature": ONE.old_signature}),
        ("another new key", {"new": PUBLIC[STRANGER]}),
        ("another time", {"time": "2026-11-24T12:00:01+00:00"}),
        ("no time", {"time": ""}),
        ("an empty signature", {"old_signature": "00"}),
    ],
)  # fmt: skip
def test_a_step_that_both_keys_did_not_sign_leads_nowhere(
    what: str, changes: dict[str, Any]
) -> None:
    broken = ONE.model_copy(update=changes)
    with pytest.raises(TrustError, match="succession does not match"):
        chain(broken).newest_after(PUBLIC[FIRST])
    with pytest.raises(TrustError):
        broken.check()


def test_a_thief_of_no_key_cannot_append_a_step() -> None:
    taken = RotationStep.signed(STRANGER, THIRD, TIME).model_copy(update={"old": PUBLIC[SECOND]})
    with pytest.raises(TrustError):
        chain(ONE, taken).newest_after(PUBLIC[FIRST])


@pytest.mark.parametrize("purpose", ["study", "token", "audit-entry", "approval"])
def test_a_signature_for_something_else_is_no_step(purpose: str) -> None:
    statement = canonical.encode({"old": ONE.old, "new": ONE.new, "time": ONE.time})
    for name, signer in (("old_signature", FIRST), ("new_signature", SECOND)):
        signed = ONE.model_copy(update={name: signer.sign(purpose, statement)})
        with pytest.raises(TrustError):
            signed.check()
        signed = ONE.model_copy(update={name: signer.sign("succession", statement)})
        signed.check()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": None}, "steps"),
        ({"schema_version": 2}, "schema_version"),
        ({"more": 1}, "more"),
        ({"steps": [{**ONE.model_dump(), "more": 1}]}, "more"),
        ({"steps": [{**ONE.model_dump(), "old": "xy"}]}, "old"),
        ({"steps": [{**ONE.model_dump(), "time": "t" * 41}]}, "time"),
        ({"steps": [ONE.model_dump()] * 1001}, "steps"),
    ],
)
def test_a_succession_of_another_shape_is_refused(changes: dict[str, Any], words: str) -> None:
    good = chain(ONE).model_dump(mode="json")
    with pytest.raises((UsageError, MessageError), match=words):
        KeyRotation.read(canonical.encode({**good, **changes}))


@given(data=st.binary(max_size=300))
def test_garbage_is_refused_and_nothing_else_happens(data: bytes) -> None:
    with pytest.raises(FloError):
        KeyRotation.read(data)
