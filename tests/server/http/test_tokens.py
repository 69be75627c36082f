"""A token is the coordinator's word, for one person and role, for hours; nothing else is one."""

from __future__ import annotations

import base64
from typing import Any, get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flo.documents import canonical
from flo.errors import TrustError, UsageError
from flo.keys.identity import Identity
from flo.server.http.tokens import LONGEST_SECONDS, Role, Token, issue, read

COORDINATOR, STRANGER = Identity.new(), Identity.new()
NOW = 1_790_000_000.0
HOUR = 3600
TEXT, TOKEN = issue(COORDINATOR, "Ada", "viewer", HOUR, now=NOW)


def signed(document: bytes, by: Identity = COORDINATOR, purpose: str = "token") -> str:
    return f"{base64.urlsafe_b64encode(document).decode()}.{by.sign(purpose, document)}"


def made(**changes: Any) -> str:
    """The token of TEXT with other content, signed by the coordinator all the same."""
    return signed(canonical.encode({**TOKEN.model_dump(mode="json"), **changes}))


def accepted(text: str, now: float = NOW) -> Token:
    return read(text, COORDINATOR.public, now)


@pytest.mark.parametrize("role", get_args(Role))
def test_a_token_says_who_and_what_until_when(role: Role) -> None:
    text, token = issue(COORDINATOR, "ada@north", role, HOUR, now=NOW)
    assert accepted(text) == token
    assert (token.name, token.role) == ("ada@north", role)
    assert (token.issued, token.expires) == (NOW, NOW + HOUR)
    assert issue(COORDINATOR, "ada@north", role, HOUR, now=NOW)[1].id != token.id


@pytest.mark.parametrize("seconds", [1, HOUR, LONGEST_SECONDS])
def test_a_token_ends_by_itself(seconds: int) -> None:
    text, token = issue(COORDINATOR, "Ada", "operator", seconds, now=NOW)
    for early in (0, seconds / 2, seconds - 0.001):
        assert accepted(text, NOW + early) == token
    for late in (seconds, seconds + 0.001, 10 * LONGEST_SECONDS):
        with pytest.raises(TrustError, match="has expired"):
            accepted(text, NOW + late)


def test_a_token_made_now_is_good_now() -> None:
    text, token = issue(COORDINATOR, "Ada", "operator", HOUR)
    assert read(text, COORDINATOR.public) == token
    with pytest.raises(TrustError, match="has expired"):
        read(TEXT, COORDINATOR.public, NOW + 2 * HOUR)


def test_a_token_from_the_future_waits_for_its_time() -> None:
    for early in (0, 59, 60):  # clocks may differ by a minute
        accepted(TEXT, NOW - early)
    for early in (61, LONGEST_SECONDS):
        with pytest.raises(TrustError, match="not valid yet: compare the clocks"):
            accepted(TEXT, NOW - early)


@pytest.mark.parametrize("seconds", [-HOUR, 0, LONGEST_SECONDS + 1])
def test_a_life_out_of_its_limits_is_not_issued(seconds: int) -> None:
    with pytest.raises(
        UsageError, match=f"lifetime is 1 to {LONGEST_SECONDS} seconds, not {seconds}"
    ):
        issue(COORDINATOR, "Ada", "viewer", seconds, now=NOW)


@pytest.mark.parametrize("name", ["", "x" * 61, "Ada\n", "<b>", "a/b", "a,b", "\x1b[2J", "a\0"])
def test_a_name_that_would_disfigure_a_log_is_not_issued(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be the name of a token"):
        issue(COORDINATOR, name, "viewer", HOUR)


# -- what is no token ------------------------------------------------------------------------------

DOCUMENT, SIGNATURE = TEXT.split(".")
PLAIN = base64.urlsafe_b64decode(DOCUMENT)
PROMOTED = PLAIN.replace(b"viewer", b"operator")


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("nothing", ""),
        ("a word", "token"),
        ("a dot", "."),
        ("no signature", f"{DOCUMENT}."),
        ("no document", f".{SIGNATURE}"),
        ("the document alone", DOCUMENT),
        ("edited", f"{base64.urlsafe_b64encode(PROMOTED).decode()}.{SIGNATURE}"),
        ("forged", signed(PLAIN, STRANGER)),
        ("edited and forged", signed(PROMOTED, STRANGER)),
        ("signed for something else", signed(PLAIN, purpose="study")),
        ("signature in upper case", f"{DOCUMENT}.{SIGNATURE.upper()}"),
        ("signature cut off", TEXT[:-2]),
        ("signature twice", f"{TEXT}.{SIGNATURE}"),
        ("space around", f" {TEXT} "),
        ("line break inside", f"{DOCUMENT[:10]}\n{DOCUMENT[10:]}.{SIGNATURE}"),
        ("not ASCII", f"é{TEXT}"),
        ("a lone surrogate", f"\ud800{TEXT}"),
        ("oversized", made(name="x" * 60, more="y" * 2000)),
        ("oversized with a good start", TEXT + "0" * 2048),
        ("unknown role", made(role="admin")),
        ("no role", made(role=None)),
        ("two roles", made(role=["viewer", "operator"])),
        ("later version", made(schema_version=2)),
        ("one field more", made(admin=True)),
        ("a name like markup", made(name="[red]Ada")),
        ("no life at all", made(expires=TOKEN.issued)),
        ("ends before it begins", made(expires=TOKEN.issued - 1)),
        ("too long a life", made(expires=TOKEN.issued + LONGEST_SECONDS + 1)),
        ("never ends", made(expires=(1 << 40) - 1)),
        ("too large a number", made(expires=1 << 70)),
        ("an infinite life", signed(PLAIN.replace(b"1790003600", b"1e999"))),
        ("not canonical", signed(PLAIN.replace(b",", b", "))),
        ("a key twice", signed(PLAIN.replace(b"{", b'{"role":"operator",'))),
        ("a list", signed(b"[]")),
        ("a number", signed(b"1")),
        ("no JSON", signed(b"\xff\xfe{")),
        ("deep", signed(b"[" * 900)),
    ],
)  # fmt: skip
def test_what_is_no_token_is_refused(what: str, text: str) -> None:
    with pytest.raises(TrustError):
        accepted(text)


def test_a_new_coordinator_key_ends_all_tokens() -> None:
    accepted(TEXT)
    with pytest.raises(TrustError, match="signature of this token does not match"):
        read(TEXT, Identity.new().public, NOW)


ALPHABET = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=+/. "
SHAPES = st.one_of(
    st.text(max_size=200),
    st.text(ALPHABET, max_size=3000),
    st.builds("{}.{}".format, st.text(ALPHABET, max_size=200), st.text(max_size=200)),
    st.builds(
        lambda document, signature: f"{base64.urlsafe_b64encode(document).decode()}.{signature}",
        st.binary(max_size=200),
        st.sampled_from([SIGNATURE, "", "00", "zz", "0" * 207]),
    ),
    st.binary(max_size=300).map(signed),  # what only the coordinator's key could have signed
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
        max_leaves=10,
    ).map(lambda value: signed(canonical.encode(value))),
)


@given(text=SHAPES)
@example(text="A" * 5000)
def test_garbage_of_any_shape_is_refused_and_nothing_else_happens(text: str) -> None:
    with pytest.raises(TrustError):
        accepted(text)


VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=70)
)


@given(name=st.sampled_from(sorted(Token.model_fields)), value=VALUES | st.lists(VALUES))
def test_a_signed_token_with_a_field_of_any_shape_is_a_token_or_refused(
    name: str, value: Any
) -> None:
    try:
        token = accepted(made(**{name: value}))
    except TrustError:
        return
    assert token.role in get_args(Role)
    assert 0 < token.expires - token.issued <= LONGEST_SECONDS


@given(place=st.integers(0, len(TEXT) - 1), letter=st.sampled_from(ALPHABET))
def test_no_changed_letter_makes_another_token(place: int, letter: str) -> None:
    text = TEXT[:place] + letter + TEXT[place + 1 :]
    try:
        assert accepted(text) == TOKEN
    except TrustError:
        assert text != TEXT
