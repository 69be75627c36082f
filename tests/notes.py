"""A small encoder of notes: a network as an ONNX file, a tokenizer, and what makes them unfit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from flo.arrays import Floats
from flo.clients.data_process.encoding import encoder_path, tokenizer_path
from flo.documents import canonical
from tests.encoders import Change, written

FEATURES, TOKENS = 5, 12
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
_WORDS = (
    "the",
    "patient",
    "has",
    "no",
    "chest",
    "pain",
    "##ful",
    "and",
    "fever",
    "a",
    "cough",
    ".",
)
VOCABULARY = (*_SPECIAL, *_WORDS)


def tokenizer(**changes: object) -> bytes:
    """A tokenizer.json of word pieces, all of whose words are lower case."""
    document: dict[str, object] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False),
                **{"id": number, "content": word, "special": True},
            }
            for number, word in enumerate(_SPECIAL)
        ],
        "normalizer": {
            **{"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True},
            **{"strip_accents": None, "lowercase": True},
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            **{"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        },
        "decoder": None,
        "model": {
            **{"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##"},
            **{"max_input_chars_per_word": 100},
            "vocab": {word: number for number, word in enumerate(VOCABULARY)},
        },
    }
    return json.dumps(document | changes).encode()


def model(rows: int = len(VOCABULARY), tokens: int = TOKENS) -> ModelProto:
    """The mean of the rows of a note's tokens, bent."""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["each"], name="embedding"),
        helper.make_node("Unsqueeze", ["mask", "last"], ["weights"], name="weights"),
        helper.make_node("Mul", ["each", "weights"], ["counted"], name="counted"),
        helper.make_node("ReduceSum", ["counted", "second"], ["sum"], name="sum", keepdims=0),
        helper.make_node("ReduceSum", ["mask", "second"], ["count"], name="count", keepdims=1),
        helper.make_node("Div", ["sum", "count"], ["mean"], name="mean"),
        helper.make_node("Tanh", ["mean"], ["features"], name="tanh"),
    ]
    graph = helper.make_graph(
        nodes,
        "notes",
        [
            helper.make_tensor_value_info("ids", TensorProto.INT64, [1, tokens]),
            helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1, tokens]),
        ],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, FEATURES])],
        [
            numpy_helper.from_array(table(rows), "table"),
            numpy_helper.from_array(np.array([2], dtype=np.int64), "last"),
            numpy_helper.from_array(np.array([1], dtype=np.int64), "second"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def table(rows: int = len(VOCABULARY)) -> np.ndarray:
    """The rows of the network's table, one a token."""
    return np.random.default_rng(8).normal(size=(rows, FEATURES)).astype(np.float32)


def encoder(*changes: Change, **sizes: int) -> bytes:
    """The network's bytes. ``changes``: applied to it before."""
    return written(model(**sizes), changes)


def kept(folder: Path, data: bytes, words: bytes) -> dict[str, Any]:
    """Write both files where they are looked for; return what a study states of them."""
    digests = canonical.digest(data), canonical.digest(words)
    folder.mkdir(parents=True, exist_ok=True)
    encoder_path(folder, digests[0]).write_bytes(data)
    tokenizer_path(folder, digests[1]).write_bytes(words)
    stated = {"name": "five numbers", "file": digests[0], "tokenizer": digests[1]}
    return stated | {"features": FEATURES, "tokens": TOKENS}


def tokens_of(note: str) -> list[int]:
    """The tokens of a note of plain lower-case words, as a person would look them up."""
    found = []
    for word in note.replace(".", " . ").split():
        if word == "painful":
            found += [VOCABULARY.index("pain"), VOCABULARY.index("##ful")]
        else:
            found.append(VOCABULARY.index(word) if word in VOCABULARY else 1)
    return [2, *found[: TOKENS - 2], 3]


def expected(notes: Sequence[str]) -> Floats:
    """What the network makes of them, (n, FEATURES), by numpy."""
    means = [table()[tokens_of(note)].astype(np.float64).mean(axis=0) for note in notes]
    return np.asarray(np.tanh(np.array(means)))


# -- what makes a network unfit ---------------------------------------------------------------


def _inserted(found: ModelProto, *nodes: Any) -> None:
    for place, node in enumerate(nodes):
        found.graph.node.insert(place, node)


def tokens_as_numbers(found: ModelProto) -> None:
    _inserted(found, helper.make_node("Cast", ["ids"], ["numbers"], name="cast", to=1))


def tokens_as_a_shape(found: ModelProto) -> None:
    _inserted(found, helper.make_node("Expand", ["table", "ids"], ["wide"], name="expand"))


def tokens_along_another_side(found: ModelProto) -> None:
    found.graph.node[0].attribute.append(helper.make_attribute("axis", 1))


def rows_of_what_is_computed(found: ModelProto) -> None:
    _inserted(found, helper.make_node("Tanh", ["table"], ["bent"], name="bent"))
    found.graph.node[1].input[0] = "bent"


def tokens_handed_on(found: ModelProto) -> None:
    _inserted(found, helper.make_node("Identity", ["ids"], ["same"], name="same"))


def tokens_unused(found: ModelProto) -> None:
    first = numpy_helper.from_array(np.zeros((1, TOKENS), dtype=np.int64), "first")
    found.graph.initializer.append(first)
    found.graph.node[0].input[1] = "first"


def fewer_marks(found: ModelProto) -> None:
    found.graph.input[1].type.tensor_type.shape.dim[1].dim_value = TOKENS - 1


def whole_marks(found: ModelProto) -> None:
    found.graph.input[1].type.tensor_type.elem_type = TensorProto.INT64


def far_too_long(found: ModelProto) -> None:
    for value in found.graph.input:
        value.type.tensor_type.shape.dim[1].dim_value = 1 << 20


def padding_counts(found: ModelProto) -> None:
    """It sums over the padding, too."""
    found.graph.node[3].input[0] = "each"


def blind(found: ModelProto) -> None:
    (held,) = [one for one in found.graph.initializer if one.name == "table"]
    held.CopyFrom(
        numpy_helper.from_array(np.zeros((len(VOCABULARY), FEATURES), np.float32), "table")
    )
