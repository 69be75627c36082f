"""An encoder's file is a fixed function of one image, or it is refused by name."""

from __future__ import annotations

import io
import pickle
import zipfile

import numpy as np
import pytest
import torch

from flo.clients.data_process.encoder_file import TakesImage, UnfitEncoderError, read_facts
from tests import encoders


def saved_by_torch() -> bytes:
    buffer = io.BytesIO()
    torch.save({"weight": torch.zeros(2)}, buffer)
    return buffer.getvalue()


def test_the_file_states_the_image_and_its_features() -> None:
    facts, run = read_facts(encoders.encoder(channels=3, height=16, width=10))
    assert facts.takes == TakesImage(channels=3, height=16, width=10)
    assert facts.features == 6
    assert facts.parameters == 3 * 3 * 9
    assert facts.operators == ("AveragePool", "Conv", "Flatten", "Tanh")
    assert read_facts(run) == (facts, run)


def test_what_runs_has_no_part_that_was_not_looked_at() -> None:
    """onnxruntime takes a file with ORTM at its fourth byte for one of another format."""
    model = encoders.model()
    model.producer_name = "ORTM"
    model.doc_string = "another network"
    model.graph.quantization_annotation.add().tensor_name = "filters"
    model.training_info.add()
    data = model.SerializeToString() + b"\xfa\x3f\x03new"  # a field that onnx does not know
    facts, run = read_facts(data)
    assert facts.features == 6
    assert b"new" not in run
    assert b"another network" not in run
    known = type(model).FromString(run)
    assert not known.training_info
    assert not known.graph.quantization_annotation
    assert not known.producer_name


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (encoders.elsewhere, "its tensor 'filters' is kept in another file"),
        (encoders.elsewhere_within, r"\(If\) holds a graph, or sparse numbers"),
        (encoders.sparse, "it has sparse tensors"),
        (encoders.sparse_constant, r"'constant' \(Constant\) holds a graph, or sparse numbers"),
        (encoders.as_many_rows_as_a_pixel_says, r"\(Cast\) makes other numbers than float32"),
        (encoders.unwritten, r"'product' \(MatMulInteger\) is not one of the operators"),
        (encoders.of_no_side, "the output 'nothing' of its Slice is not float32 of a size"),
        (encoders.half, "its tensor 'filters' is not float32"),
        (encoders.huge, "it takes an image of 1 × 65536 × 65536; limit 1048576"),
        (encoders.looked_up, r"'cast' \(Cast\) makes other numbers than float32"),
        (encoders.of_another_domain, "it uses operators of 'org.example'"),
        (encoders.of_an_undeclared_domain, "its node 'tanh' is of the domain 'org.example'"),
        (encoders.with_functions, "it uses operators of its own functions"),
        (encoders.drawn, r"its node 'dice' \(RandomNormalLike\) is not one of the operators"),
        (encoders.training, r"its node 'norm' \(BatchNormalization\) is in its training mode"),
        (encoders.two_inputs, r"its input 'image' must be int64 of shape \(records, tokens\)"),
        (encoders.any_size, "its input 'image' must be float32 of shape"),
        (encoders.doubles, "its input 'image' must be float32 of shape"),
        (encoders.two_at_once, "its input 'image' holds 2 records; export it for 1"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_makes_a_file_unfit_is_named(change: encoders.Change, told: str) -> None:
    with pytest.raises(UnfitEncoderError, match=told):
        read_facts(encoders.encoder(change))


def wheel() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("own_network.py", "import socket")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (pickle.dumps([1.0]), "it is a pickle, which could run code"),
        (saved_by_torch(), "it is an archive, such as a wheel or torch's .pt, which may hold code"),
        (wheel(), "it is an archive, such as a wheel or torch's .pt, which may hold code"),
    ],
    ids=["pickle", "torch", "wheel"],
)
def test_what_may_hold_code_is_never_opened(data: bytes, told: str) -> None:
    with pytest.raises(UnfitEncoderError, match=told):
        read_facts(data)


@pytest.mark.parametrize("data", [b"", b"\x00", b"hello", encoders.encoder()[:-40]])
def test_what_is_not_onnx_is_said(data: bytes) -> None:
    with pytest.raises(UnfitEncoderError, match="it is not ONNX, or too large"):
        read_facts(data)


def test_no_byte_changed_in_a_file_raises_anything_else() -> None:
    data, dice = bytearray(encoders.encoder()), np.random.default_rng(1)
    for _ in range(3000):
        place = int(dice.integers(len(data)))
        before, data[place] = data[place], int(dice.integers(256))
        try:
            read_facts(bytes(data))
        except UnfitEncoderError:
            pass
        finally:
            data[place] = before
