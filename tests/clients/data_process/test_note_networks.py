"""A network of notes is a fixed function: tokens are rows of its tables, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from flo.clients.data_process.encoder_file import TakesNote, UnfitEncoderError, read_facts
from flo.clients.data_process.open_encoder import opened
from tests import encoders, notes


def test_the_file_states_its_tokens_the_smallest_table_and_its_features() -> None:
    facts, run = read_facts(notes.encoder())
    assert facts.takes == TakesNote(tokens=12, rows=16)
    assert facts.features == 5
    assert facts.parameters == 16 * 5 + 2
    assert read_facts(run) == (facts, run)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (notes.tokens_as_numbers, r"'cast' \(Cast\) uses tokens for something else"),
        (notes.tokens_as_a_shape, r"'expand' \(Expand\) uses tokens for something else"),
        (notes.tokens_along_another_side, r"'embedding' \(Gather\) uses tokens for something"),
        (notes.rows_of_what_is_computed, "'embedding' takes rows of what is no table of float32"),
        (notes.tokens_handed_on, r"'same' \(Identity\) uses tokens for something else"),
        (notes.tokens_unused, "it does not use the tokens"),
        (notes.fewer_marks, "it takes 12 tokens and 11 marks of padding"),
        (notes.whole_marks, r"its input '.*' must be float32 of shape \(records, tokens\)"),
        (notes.far_too_long, "it takes 1048576 tokens .* limit 8192"),
        (encoders.drawn, "its node 'dice'"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_makes_a_network_unfit_is_named(change: encoders.Change, told: str) -> None:
    with pytest.raises(UnfitEncoderError, match=told):
        read_facts(notes.encoder(change))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (notes.padding_counts, "other tokens in a note's padding give other features"),
        (notes.blind, "all made-up notes become the same features"),
    ],
)
def test_a_network_is_tried_out(change: encoders.Change, told: str) -> None:
    with pytest.raises(UnfitEncoderError, match=told):
        opened(notes.encoder(change), notes.tokenizer())


def test_a_table_of_fewer_rows_than_there_are_tokens_is_refused() -> None:
    with pytest.raises(UnfitEncoderError, match="has 16 tokens, and its table 15 rows"):
        opened(notes.encoder(rows=15), notes.tokenizer())
    opened(notes.encoder(rows=17), notes.tokenizer())


def test_an_image_takes_no_tokenizer() -> None:
    with pytest.raises(UnfitEncoderError, match="takes an image, and a tokenizer came with it"):
        opened(encoders.encoder(), notes.tokenizer())


def test_no_byte_changed_in_a_network_raises_anything_else() -> None:
    data, dice = bytearray(notes.encoder()), np.random.default_rng(2)
    for _ in range(2000):
        place = int(dice.integers(len(data)))
        before, data[place] = data[place], int(dice.integers(256))
        try:
            read_facts(bytes(data))
        except UnfitEncoderError:
            continue
        finally:
            data[place] = before
