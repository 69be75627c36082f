"""A tokenizer is a file of fixed rules; what it leaves out runs patterns or draws numbers."""

from __future__ import annotations

import json
import pickle
from typing import Any

import numpy as np
import pytest

from flo.clients.data_process.tokenizer_file import (
    OpenTokenizer,
    UnfitTokenizerError,
    checked,
)
from tests import notes

_SPLIT = {
    **{"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False},
}
_DEEP = {"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": []}]}


def within(**changes: object) -> bytes:
    document: dict[str, Any] = json.loads(notes.tokenizer())
    document["model"] |= changes
    return json.dumps(document).encode()


def test_tokens_are_those_that_a_person_looks_up() -> None:
    found = OpenTokenizer(notes.tokenizer())
    assert found.facts.model_dump() == {"kind": "WordPiece", "entries": 16}
    for note in ("the patient has a painful cough.", "xyz and fever", "pain"):
        assert found.tokens(note) == notes.tokens_of(note)
    assert found.tokens("The PATIENT\nhas\tno Pain") == notes.tokens_of("the patient has no pain")
    found.limit(notes.TOKENS)
    assert found.tokens("pain " * 50) == notes.tokens_of("pain " * 50)
    assert len(found.tokens("pain " * 50)) == notes.TOKENS


def test_a_files_own_truncation_and_padding_do_not_count() -> None:
    cut = {"direction": "Left", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    padded = {
        **{"strategy": {"Fixed": 40}, "direction": "Left", "pad_to_multiple_of": None},
        **{"pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
    }
    found = OpenTokenizer(notes.tokenizer(truncation=cut, padding=padded))
    assert found.tokens("a cough and fever.") == notes.tokens_of("a cough and fever.")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (notes.tokenizer(pre_tokenizer=_SPLIT), "its pre_tokenizer has a part 'Split'"),
        (
            notes.tokenizer(pre_tokenizer={"type": "Sequence", "pretokenizers": [_SPLIT]}),
            "its pre_tokenizer has a part 'Split'",
        ),
        (
            notes.tokenizer(
                normalizer={"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""}
            ),
            "its normalizer has a part 'Replace'",
        ),
        (
            notes.tokenizer(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
            "its normalizer has a part 'Precompiled'",
        ),
        (notes.tokenizer(normalizer=_DEEP), "a sequence within a sequence"),
        (notes.tokenizer(normalizer={"type": "Sequence"}), "no list of at most 16 parts"),
        (notes.tokenizer(normalizer="NFC"), "its normalizer has a part None"),
        (within(type="Own"), "its model is 'Own'; FLO runs BPE, Unigram, WordLevel, WordPiece"),
        (within(type=[]), r"its model is \[\]; FLO runs"),
        (notes.tokenizer(normalizer={"type": []}), r"its normalizer has a part \[\]"),
        (within(max_input_chars_per_word=10**9), "is 1000000000, limit 1000"),
        (within(type="BPE", dropout=0.1), "draws random numbers"),
        (within(vocab=[]), "tokenizers does not run it"),
        (b"", "it is no tokenizer.json"),
        (b"[]", "it is no tokenizer.json"),
        (b'{"model": 1}', "it is no tokenizer.json"),
        (b"[" * 200_000, "it is no tokenizer.json"),
        (pickle.dumps({"model": {}}), "it is no tokenizer.json"),
        (b"\xff" * 9, "it is no tokenizer.json"),
    ],
)
def test_what_makes_a_file_unfit_is_named(data: bytes, told: str) -> None:
    with pytest.raises(UnfitTokenizerError, match=told):
        OpenTokenizer(data)


def test_a_file_that_is_too_large_is_not_read() -> None:
    with pytest.raises(UnfitTokenizerError, match="limit 67108864"):
        checked(b" " * ((1 << 26) + 1))


def test_fewer_tokens_than_mark_a_notes_ends_are_refused() -> None:
    with pytest.raises(UnfitTokenizerError, match="it cannot keep a note to 1 tokens"):
        OpenTokenizer(notes.tokenizer()).limit(1)


def test_a_token_beyond_the_vocabulary_counts_and_a_repeated_note_is_refused() -> None:
    far = {"type": "BertProcessing", "sep": ["[SEP]", 999], "cls": ["[CLS]", 2]}
    assert OpenTokenizer(notes.tokenizer(post_processor=far)).facts.entries == 1000
    twice = {
        **{"type": "TemplateProcessing", "pair": [], "special_tokens": {}},
        "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 2,
    }
    with pytest.raises(UnfitTokenizerError, match="it cannot keep a note to 30 tokens"):
        OpenTokenizer(notes.tokenizer(post_processor=twice)).limit(30)


def test_no_byte_changed_in_a_file_raises_anything_else() -> None:
    data, dice = bytearray(notes.tokenizer()), np.random.default_rng(3)
    for _ in range(2000):
        place = int(dice.integers(len(data)))
        before, data[place] = data[place], int(dice.integers(256))
        try:
            OpenTokenizer(bytes(data)).tokens("the patient has a painful cough.")
        except UnfitTokenizerError:
            continue
        finally:
            data[place] = before
