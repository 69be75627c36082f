"""A network of one's own, frozen but for parts that are named, with adapters beside others."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.numpy import load

from flo.errors import UsageError
from flo.lab.adapters import Asked
from flo.lab.onnx_pack import frozen_pack_of
from flo.study import frozen, networks
from tests.lab import own_networks
from tests.lab.own_networks import exported

TRANSFORMER = (own_networks.Transformer, 15)
LAST = ("last",)


def numbers_in(data: bytes) -> list[np.ndarray]:
    model = onnx.load_model_from_string(data)
    return [numpy_helper.to_array(one) for one in model.graph.initializer]


@pytest.mark.parametrize(
    ("asked", "trained", "adapters"),
    [
        (Asked(LAST), 9, 0),
        (Asked(("last", "layer.norm2")), 9 + 16, 0),
        (Asked(LAST, ("layer.linear1",), 2), 9 + 8 * 2 + 2 + 2 * 12 + 12, 1),
        # its projections of 8 to 24 numbers and of 8 to 8
        (Asked(LAST, ("layer.self_attn",), 1), 9 + (8 + 1 + 24 + 24) + (8 + 1 + 8 + 8), 2),
        (Asked(LAST, ("layer",), 1), 9 + 57 + 25 + (8 + 1 + 12 + 12) + (12 + 1 + 8 + 8), 4),
    ],
    ids=["last", "last and a norm", "one adapter", "attention", "every linear layer of a block"],
)
def test_parts_are_trained_adapted_or_frozen_by_their_names_in_torch(
    asked: Asked, trained: int, adapters: int
) -> None:
    """``frozen_pack_of`` compares the whole with what ONNX Runtime makes of the file."""
    pack, file = frozen_pack_of(exported(*TRANSFORMER), "tail", asked)
    assert networks.size(pack.network) == trained
    assert sum(layer.zero for layer in pack.layers) == adapters
    assert pack.numbers == frozen.learn(file)
    of_the_network = sum(p.numel() for p in own_networks.Transformer().parameters())
    of_new_layers = sum(
        networks.size([pack.network[place - 1], layer])
        for place, layer in enumerate(pack.network)
        if layer.zero
    )
    held = sum(one.size for one in load(file).values())
    assert held + trained - of_new_layers == of_the_network


def test_the_file_has_the_networks_own_numbers() -> None:
    data = exported(own_networks.tail, 6)
    _, file = frozen_pack_of(data, "tail", Asked(("2",), ("0",), 2))
    held = load(file)
    assert sorted(held) == ["0.bias", "0.weight"]
    theirs = {array.tobytes() for array in numbers_in(data)}
    assert held["0.bias"].tobytes() in theirs
    assert {held["0.weight"].tobytes(), held["0.weight"].T.tobytes()} & theirs


def test_convolutions_are_frozen_and_have_no_adapters() -> None:
    data = exported(own_networks.Residual, 1, 8, 8)
    pack, file = frozen_pack_of(data, "tail", Asked(LAST))
    assert networks.size(pack.network) == 5
    assert sum(one.size for one in load(file).values()) == 40 + 8 + 144 + 4 + 8
    with pytest.raises(UsageError, match="'conv2' has no Linear, beside which an adapter"):
        frozen_pack_of(data, "tail", Asked(LAST, ("conv2",)))


@pytest.mark.parametrize(
    ("asked", "told", "way_out"),
    [
        (Asked(("head",)), "no layer with parameters is called 'head'", "layer.linear1, layer.li"),
        (Asked(LAST, ("layer.lin",)), "is called 'layer.lin'", "the network has embed"),
        (Asked(LAST, ("layer.norm1",)), "'layer.norm1' has no Linear", "name another part"),
        (Asked(LAST, LAST), "--train and --adapt both name last", ""),
        (Asked(("embed", "layer", "last", "")), "nothing is left to be frozen", "leave out"),
        (Asked(LAST, ("layer.linear1",), 8), "--rank 8 is not below the sides .* 8 and 12", ""),
        (Asked(LAST, ("layer.linear1",), 0), "--rank 0 is not below the sides", ""),
    ],
)
def test_what_cannot_be_adapted_is_refused_by_name(asked: Asked, told: str, way_out: str) -> None:
    with pytest.raises(UsageError, match=told) as refused:
        frozen_pack_of(exported(*TRANSFORMER), "tail", asked)
    assert way_out in refused.value.hint


def test_batch_normalisation_is_refused_also_where_it_would_be_frozen() -> None:
    with pytest.raises(UsageError, match="is a BatchNorm1d"):
        frozen_pack_of(exported(own_networks.normed, 5), "tail", Asked(("3",)))


def test_a_pack_whose_numbers_another_program_reads_is_the_network() -> None:
    """Without FLO: torch's own network, with the file's numbers, gives the pack's scores."""
    data = exported(own_networks.tail, 6)
    pack, file = frozen_pack_of(data, "tail", Asked(("2",)))
    known = frozen.of(frozen.learn(file), networks.frozen_shapes(pack.network))
    module = networks.build(pack.network, known)
    plain, held = own_networks.tail(), load(file)
    first, _, last = plain.children()
    with torch.no_grad():
        first.load_state_dict(
            {own: torch.from_numpy(held[f"0.{own}"]) for own in ("weight", "bias")}
        )
        for own, theirs in zip(last.parameters(), module.parameters(), strict=True):
            own.copy_(theirs)
        records = torch.randn(7, 6, generator=torch.Generator().manual_seed(2))
        torch.testing.assert_close(plain(records), module(records))
