"""A network of one's own: exported by torch, translated into layers, and trained like any other."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from flo.errors import UsageError
from flo.lab.onnx_pack import pack_of
from flo.privacy.gradients.bookkeeping import binary_loss
from flo.privacy.gradients.step import PrivateStep
from flo.study import networks
from flo.study.layers import Layer
from tests.builders import small_study
from tests.lab import own_networks
from tests.lab.own_networks import Net, exported
from tests.privacy.slow_step import BATCH, examples, file_of, seeded, slow_sum, summed, weights_of

OWN: dict[str, tuple[Net, tuple[int, ...], int]] = {
    "gated": (own_networks.Gated, (5,), 206),
    "residual": (own_networks.Residual, (1, 12, 12), 40 + 8 + 148 + 8 + 5),
    "transformer": (own_networks.Transformer, (15,), 32 + 40 + 16 + 288 + 16 + 108 + 104 + 9),
    "own attention": (own_networks.OwnAttention, (15,), 32 + 16 + 216 + 72 + 9),
}


@pytest.mark.parametrize("name", OWN)
def test_an_exported_network_becomes_layers_with_the_same_scores(name: str) -> None:
    """``pack_of`` itself compares the scores with ONNX Runtime's."""
    make, record, parameters = OWN[name]
    pack = pack_of(exported(make, *record), "mine")
    assert networks.output(pack.network, math.prod(record)) == (1,)
    assert networks.size(pack.network) == parameters
    again = type(pack).model_validate_json(pack.model_dump_json())
    assert again == pack
    assert again.digest == pack.digest


@pytest.mark.parametrize("name", OWN)
def test_its_gradients_are_those_of_one_patient_at_a_time(name: str) -> None:
    make, record, _ = OWN[name]
    layers, width = pack_of(exported(make, *record), "mine").network, math.prod(record)
    module, twin = (seeded(networks.build(layers).double()) for _ in range(2))
    step = PrivateStep(
        module, binary_loss, 0.5, examples=examples(width), batch=BATCH, most_records=BATCH
    )
    assert step.way.name == "book-keeping"
    patients = file_of([1, 3, 2, 1, 5, 1, 1], width)
    np.testing.assert_allclose(
        summed(step, weights_of(twin), patients),
        slow_sum(twin, binary_loss, patients, 0.5),
        rtol=0,
        atol=1e-9,
    )


def test_a_study_trains_on_it() -> None:
    pack = pack_of(exported(own_networks.Gated, 5), "mine")
    study = small_study(model=pack.model_dump(mode="json"))
    assert study.model == pack
    assert study.digest != small_study().digest


@pytest.mark.parametrize(
    ("make", "record", "told", "hint"),
    [
        (own_networks.normed, (5,), "the layer '1' is a BatchNorm1d", "use GroupNorm"),
        (own_networks.MeanTaken, (5,), "in a batch it would mix records", "within a record"),
        (own_networks.Recurrent, (15,), r"the layer 'over_steps' \(GRU\)", 'kind = "gru"'),
        (own_networks.even_kernel, (5,), r"the layer '1' \(Conv\) has no layer", "the layers are"),
        (own_networks.Causal, (15,), "numbers that are not finite are added", "a pack has no mask"),
        (own_networks.Placed, (15,), "40 fixed numbers of shape", "make them an nn.Parameter"),
        (own_networks.Tied, (5,), "the parameter 'again_bias' is used twice|'again_weight'", "own"),
        (own_networks.Doubled, (5,), "1 inputs and 2 outputs", ""),
        (own_networks.coarse, (5,), r"the layer '1' \(LayerNormalization\)", "the layers are"),
        (own_networks.roughly, (5,), r"the layer '1' \(Gelu\)", "the layers are"),
        (own_networks.blunt, (5,), "the last layer is a Sigmoid, which would limit", "study.md"),
    ],
)
def test_what_has_no_layer_is_named_with_the_way_out(
    make: Net, record: tuple[int, ...], told: str, hint: str
) -> None:
    with pytest.raises(UsageError, match=told) as refused:
        pack_of(exported(make, *record), "mine")
    assert hint in refused.value.hint


def test_a_translation_that_computes_something_else_is_never_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = exported(own_networks.Gated, 5)
    build = networks.build

    def wrong(layers: list[Layer], numbers: object) -> nn.Sequential:
        module = build(layers)
        module[1] = nn.ReLU()
        return module

    monkeypatch.setattr(networks, "build", wrong)
    with pytest.raises(UsageError, match="the translation computes other scores than the file"):
        pack_of(data, "mine")


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04wheel", b"\x80\x04pickle"])
def test_another_file_is_refused(data: bytes) -> None:
    with pytest.raises(UsageError, match="the network's file cannot be used: it is"):
        pack_of(data, "mine")


def test_a_name_that_no_pack_may_have_is_said() -> None:
    with pytest.raises(UsageError, match="name: 1 to 63 lower-case letters"):
        pack_of(exported(own_networks.Gated, 5), "My Net")


def test_one_record_never_changes_anothers_score() -> None:
    layers = pack_of(exported(own_networks.Transformer, 15), "mine").network
    module = seeded(networks.build(layers))
    records = torch.randn(6, 15, generator=torch.Generator().manual_seed(3))
    whole = module(records)
    records[2] = float("nan")
    changed = module(records)
    kept = [0, 1, 3, 4, 5]
    torch.testing.assert_close(changed[kept], whole[kept], rtol=0, atol=1e-6)


def test_nothing_of_the_files_parameters_is_in_the_pack() -> None:
    """A factor that is learnt, and the bias of a layer of one number, stay parameters."""
    pack = pack_of(exported(own_networks.FromNothing, 15), "mine")
    kinds = [layer.kind for layer in pack.layers]
    assert kinds.count("Gain") == 1
    assert not {"Scale", "Shift"} & set(kinds)
    assert networks.size(pack.network) == 16 + 20 + 1 + 5


def test_a_bias_that_only_one_of_two_uses_takes_is_not_made_the_layers() -> None:
    pack = pack_of(exported(own_networks.Squared, 5), "mine")
    assert [layer.kind for layer in pack.layers].count("Offset") == 1


def test_a_file_that_does_not_say_how_it_was_made_is_refused() -> None:
    """An older exporter makes batch normalisation part of other layers, and does not say so."""
    model = onnx.load_model_from_string(exported(own_networks.Gated, 5))
    for node in model.graph.node:
        del node.metadata_props[:]
    with pytest.raises(UsageError, match="does not say how torch made it") as refused:
        pack_of(model.SerializeToString(), "mine")
    assert "dynamo=True" in refused.value.hint


def test_a_file_changed_at_any_byte_gives_a_pack_or_is_refused() -> None:
    data, dice = bytearray(exported(own_networks.Gated, 5)), np.random.default_rng(1)
    for _ in range(200):
        place = int(dice.integers(len(data)))
        before, data[place] = data[place], int(dice.integers(256))
        with contextlib.suppress(UsageError):
            pack_of(bytes(data), "mine")
        data[place] = before
