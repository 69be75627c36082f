"""Text from others is shown as it can be read, and nothing in it is obeyed."""

from __future__ import annotations

import io
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError
from rich.console import Console

from flo.cli.terminal.output import plain
from flo.documents.document import Document, problems, spelt
from flo.documents.text import escape_for_terminal, of_auc
from flo.protocol.decisions import PersonName

OBEYED = {
    "an escape": "\x1b[2Jverified",
    "a C1 escape": "\x9b2Jverified",
    "a title": "\x1b]0;verified\x07",
    "a carriage return": "refused\rverified",
    "a backspace": "refused\b\b\b\b\b\b\bverified",
    "a bidirectional override": "\u202everified",
    "zero width": "veri\u200bfied",
    "a line separator": "a\u2028b",
    "a surrogate": "\ud800",
}


@pytest.mark.parametrize("text", OBEYED.values(), ids=OBEYED.keys())
def test_what_a_terminal_would_obey_is_replaced(text: str) -> None:
    shown = escape_for_terminal(text)
    assert len(shown) == len(text)
    assert "\ufffd" in shown
    assert escape_for_terminal(shown) == shown


@given(st.text())
def test_letters_numbers_marks_and_signs_are_left_alone(text: str) -> None:
    kept = [letter for letter in escape_for_terminal(text) if letter != "\ufffd"]
    assert all(
        letter.isprintable() or letter in "\n\t\u3000" or letter.isspace() for letter in kept
    )
    if text.isprintable():
        assert escape_for_terminal(text) == text


@given(st.text())
def test_a_console_shows_it_in_one_piece_and_obeys_nothing(text: str) -> None:
    out = io.StringIO()
    Console(file=out, force_terminal=True, color_system=None, width=10_000).print(
        plain(f"[bold]{text}"), soft_wrap=True
    )
    assert "[bold]" in out.getvalue()
    assert not {"\x1b", "\x9b", "\r", "\b"} & set(out.getvalue())


class _Asked(Document):
    known: int = 0


def complaint(document: dict[str, object], model: type[BaseModel] = _Asked, **how: bool) -> str:
    with pytest.raises(ValidationError) as error:
        model.model_validate(document)
    return problems(error.value, **how)


def test_an_unknown_key_is_named_safely_and_of_another_party_not_at_all() -> None:
    own = complaint({"knwon\x1b[2J": 1})
    assert own == "  knwon\ufffd[2J: Extra inputs are not permitted"
    assert len(complaint({"k" * 5000: 1})) < 300
    foreign = complaint({"Jane Doe, born 1970": 1}, foreign=True)
    assert foreign == "  document: Extra inputs are not permitted"


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        ((0.843, 0.801, 0.880), "0.843, 0.801 to 0.880"),
        ((0.991, 0.793, 1.0), "0.991, 0.793 or more"),
        ((0.21, 0.0, 0.4), "0.210, 0.400 or less"),
        ((0.55, 0.0001, 0.9999), "no information"),
    ],
)
def test_an_end_of_an_interval_that_says_nothing_is_not_told_as_a_number(
    interval: tuple[float, float, float], said: str
) -> None:
    assert of_auc(*interval) == said


class _Typed(Document):
    name: Annotated[str, spelt(r"[a-z]{1,3}", "one to three letters")]


@pytest.mark.parametrize("name", ["Anna", "", "abcd", "ab\n", "ab\nc", " ab"])
def test_a_rule_of_spelling_is_said_in_words_and_holds_for_the_whole(name: str) -> None:
    assert complaint({"name": name}, _Typed) == "  name: one to three letters"


@pytest.mark.parametrize("name", ["Jose\u0301 Garcia", "हिन्दी", "Zoë O'Neil", "李 小龙"])
def test_names_of_people_are_theirs(name: str) -> None:
    assert TypeAdapter(PersonName).validate_python(name) == name
