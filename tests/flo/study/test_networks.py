"""Networks as lists of layers: what they count is what torch builds, layer by layer."""

from __future__ import annotations

import math
from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flo.study import networks
from flo.study.layers import Layer, LayerKind, Shape
from flo.study.sequences import Cell, Recurrent, SelfAttention
from tests.privacy.slow_step import RESIDUAL, TRANSFORMER

NETWORKS = {
    "logistic": networks.logistic(5),
    "logistic of one input": networks.logistic(1),
    "mlp": networks.mlp(5, (7,)),
    "deep mlp": networks.mlp(3, (4, 4, 2)),
    "mlp of three outputs": networks.mlp(3, (4,), 3),
    "cnn": networks.cnn(1, 28, 28),
    "smallest cnn": networks.cnn(3, 8, 8),
    "oblong cnn": networks.cnn(2, 9, 14, 2),
}
# Networks that packs can name; Opacus' layers inside have names of their own.
OF_PACKS: dict[str, tuple[list[Layer], int, int]] = {
    "gru": (
        [
            Layer("Unflatten", (4, 3)),
            Layer("GRU", (3, 5)),
            Layer("LastStep"),
            Layer("Linear", (5, 1)),
        ],
        12,
        3 * 5 * (3 + 5 + 2) + 6,
    ),
    "two lstms": (
        [
            *(Layer("Unflatten", (4, 3)), Layer("LSTM", (3, 4)), Layer("LayerNorm", (4,))),
            *(Layer("LSTM", (4, 2)), Layer("MeanOfSteps"), Layer("Linear", (2, 1))),
        ],
        12,
        4 * 4 * (3 + 4 + 2) + 8 + 4 * 2 * (4 + 2 + 2) + 3,
    ),
    "rnn": ([Layer("Unflatten", (2, 6)), Layer("RNN", (6, 1)), Layer("LastStep")], 12, 6 + 1 + 2),
    "attention": (
        [
            *(Layer("Unflatten", (3, 4)), Layer("Linear", (4, 6)), Layer("SelfAttention", (6, 2))),
            *(Layer("RMSNorm", (6,)), Layer("MeanOfSteps"), Layer("Linear", (6, 1))),
        ],
        12,
        30 + 4 * 42 + 6 + 7,
    ),
    "transformer": (TRANSFORMER, 12, 20 + 12 + 8 + 60 + 4 + 30 + 28 + 5),
    "residual": (RESIDUAL, 36, 40 + 8 + 148 + 33),
    "conv1d": (
        [
            Layer("Unflatten", (2, 6)),
            Layer("Conv1d", (2, 3, 3)),
            Layer("Flatten"),
            Layer("Linear", (18, 1)),
        ],
        12,
        2 * 3 * 3 + 3 + 19,
    ),
    "conv3d": (
        [
            *(Layer("Unflatten", (1, 3, 2, 2)), Layer("Conv3d", (1, 2, 3)), Layer("Flatten")),
            Layer("Linear", (24, 1)),
        ],
        12,
        27 * 2 + 2 + 25,
    ),
}
INPUTS = [5, 1, 5, 3, 3, 28 * 28, 3 * 64, 2 * 9 * 14]
OUTPUTS = [1, 1, 1, 1, 3, 1, 1, 2]
every_network = pytest.mark.parametrize("layers", NETWORKS.values(), ids=NETWORKS.keys())


@every_network
def test_names_and_shapes_are_those_of_the_torch_module_in_its_order(layers: list[Layer]) -> None:
    built = {name: tuple(p.shape) for name, p in networks.build(layers).named_parameters()}
    assert list(networks.shapes(layers).items()) == list(built.items())
    assert networks.size(layers) == sum(math.prod(shape) for shape in built.values())


@pytest.mark.parametrize("name", OF_PACKS)
def test_a_packs_layers_are_counted_as_torch_counts_them_and_start_alike(name: str) -> None:
    layers, inputs, parameters = OF_PACKS[name]
    module = networks.build(layers)
    shapes = [tuple(p.shape) for p in module.parameters()]
    assert list(networks.shapes(layers).values()) == shapes
    assert networks.size(layers) == parameters
    assert networks.output(layers, inputs) == (1,)
    records = torch.linspace(-1, 1, 4 * inputs).reshape(4, inputs)
    with torch.inference_mode():
        together = module(records)
        for i, record in enumerate(records):
            torch.testing.assert_close(module(record[None])[0], together[i])
    assert together.shape == (4, 1)
    assert not list(module.buffers())


@pytest.mark.parametrize("cell", ["RNN", "GRU", "LSTM"])
def test_a_recurrent_layer_is_torchs_own(cell: Cell) -> None:
    made, torchs = Recurrent(cell, 3, 5), getattr(torch.nn, cell)(3, 5, batch_first=True)
    ih, bias_ih, hh, bias_hh = made.parameters()
    for name, value in {
        **{"weight_ih_l0": ih, "bias_ih_l0": bias_ih},
        **{"weight_hh_l0": hh, "bias_hh_l0": bias_hh},
    }.items():
        getattr(torchs, name).data.copy_(value.data)
    x = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(made(x), torchs(x)[0])


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_self_attention_is_torchs_own_with_a_residual_path(heads: int) -> None:
    """Opacus 1.6 mixes up heads and steps if records come first; here steps come first."""
    made, torchs = SelfAttention(8, heads), torch.nn.MultiheadAttention(8, heads, batch_first=True)
    parts = dict(
        zip(("q", "k", "v", "out"), zip(*[iter(made.parameters())] * 2, strict=True), strict=True)
    )
    torchs.in_proj_weight.data.copy_(torch.cat([parts[name][0].data for name in "qkv"]))
    torchs.in_proj_bias.data.copy_(torch.cat([parts[name][1].data for name in "qkv"]))
    torchs.out_proj.weight.data.copy_(parts["out"][0].data)
    torchs.out_proj.bias.data.copy_(parts["out"][1].data)
    x = torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(made(x), x + torchs(x, x, x, need_weights=False)[0])


@every_network
def test_a_module_holds_parameters_and_no_other_state(layers: list[Layer]) -> None:
    module = networks.build(layers)
    assert list(module.state_dict()) == list(networks.shapes(layers))
    assert not list(module.buffers())
    assert all(parameter.dtype == torch.float32 for parameter in module.parameters())


@pytest.mark.parametrize(
    ("layers", "inputs", "outputs"), list(zip(NETWORKS.values(), INPUTS, OUTPUTS, strict=True))
)
def test_flat_inputs_become_outputs_a_record_at_a_time(
    layers: list[Layer], inputs: int, outputs: int
) -> None:
    records = torch.linspace(-1, 1, 4 * inputs).reshape(4, inputs)
    module = networks.build(layers)
    assert module.training  # and yet nothing depends on it: there is no dropout, no statistics
    with torch.inference_mode():
        together = module(records)
        assert torch.equal(module.eval()(records), together)
        for i, record in enumerate(records):
            torch.testing.assert_close(module(record[None])[0], together[i])
    assert together.shape == (4, outputs)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 20), st.lists(st.integers(1, 20), min_size=1, max_size=5))
def test_an_mlp_of_any_widths_is_counted_right(inputs: int, hidden: list[int]) -> None:
    layers = networks.mlp(inputs, tuple(hidden))
    assert networks.size(layers) == sum(
        (before + 1) * after for before, after in zip([inputs, *hidden], [*hidden, 1], strict=True)
    )
    assert [layer.kind for layer in layers].count("Tanh") == len(hidden)
    assert networks.build(layers)(torch.zeros(2, inputs)).shape == (2, 1)


def test_the_count_of_a_cnn_does_not_hang_on_the_size_of_its_image() -> None:
    # 16·(9 + 1) + 2·16 + 32·(9·16 + 1) + 2·32 + 32·16 + 1, by hand
    assert networks.size(networks.cnn(1, 8, 8)) == 5409
    assert networks.size(networks.cnn(1, 1024, 600)) == 5409


def test_a_convolution_keeps_height_and_width() -> None:
    module = networks.build([Layer("Conv2d", (2, 3, 3))])
    assert module(torch.zeros(1, 2, 8, 11)).shape == (1, 3, 8, 11)


def test_a_layer_that_is_not_known_is_never_built() -> None:
    for kind in ("BatchNorm1d", "Dropout", "linear", ""):
        with pytest.raises(KeyError):
            networks.build([Layer(cast(LayerKind, kind), (4,))])


@pytest.mark.parametrize(
    ("layers", "inputs", "outputs"), list(zip(NETWORKS.values(), INPUTS, OUTPUTS, strict=True))
)
def test_what_comes_out_is_known_without_torch(
    layers: list[Layer], inputs: int, outputs: int
) -> None:
    assert networks.output(layers, inputs) == (outputs,)


RECORDS = [(6,), (24,), (4, 2, 3), (2, 8, 7), (8, 3, 3), (3, 1, 1), (4, 1, 1), (4, 6), (2, 2, 3, 3)]
LAYERS = [
    *(Layer("Linear", (6, 2)), Layer("Linear", (24, 1)), Layer("Conv2d", (4, 2, 3))),
    *(Layer("Conv2d", (2, 1, 2)), Layer("Conv2d", (2, 5, 1)), Layer("GroupNorm", (2, 8))),
    *(Layer("GroupNorm", (3, 8)), Layer("GroupNorm", (1, 3)), Layer("AvgPool2d", (2,))),
    *(Layer("AvgPool2d", (9,)), Layer("AdaptiveAvgPool2d", (2,)), Layer("Tanh"), Layer("Flatten")),
    *(Layer("Unflatten", (4, 2, 3)), Layer("Unflatten", (1, 2, 3)), Layer("Linear", (6,))),
    *(Layer("GroupNorm", (4, 4)), Layer("GroupNorm", (2, 4))),
    *(Layer("Unflatten", (4, 6)), Layer("Unflatten", (2, 2, 3, 2)), Layer("Unflatten", (6,))),
    *(Layer("Conv1d", (4, 2, 3)), Layer("Conv1d", (4, 2, 11)), Layer("Conv3d", (2, 3, 3))),
    *(
        Layer("LayerNorm", (6,)),
        Layer("RMSNorm", (3,)),
        Layer("GRU", (6, 2)),
        Layer("LSTM", (3, 2)),
    ),
    *(Layer("SelfAttention", (6, 3)), Layer("SelfAttention", (6, 4)), Layer("LastStep")),
    *(Layer("MeanOfSteps"), Layer("RNN", (6, 1)), Layer("GRU", (6,)), Layer("LayerNorm", (1,))),
    *(Layer("Conv2d", (4, 2, 3, 2)), Layer("Conv2d", (2, 1, 5, 3)), Layer("Conv1d", (4, 1, 3, 4))),
    *(Layer("MaxPool2d", (3, 2)), Layer("MaxPool2d", (3, 1)), Layer("MaxPool2d", (2, 2))),
    *(Layer("Mean", (1,)), Layer("Mean", (3,)), Layer("Permute", (2, 1)), Layer("Softmax")),
    *(Layer("Permute", (3, 1, 2)), Layer("Permute", (2, 3, 1, 4)), Layer("Permute", (1, 1, 2))),
    *(Layer("Slice", (1, 2, 3)), Layer("Slice", (2, 1, 2)), Layer("Slice", (2, 2, 1))),
    *(Layer("Offset", (4, 6)), Layer("Gain", (1, 6)), Layer("Offset", (6,)), Layer("Scale", by=2)),
    *(Layer("Gain", (4, 1, 3)), Layer("Offset", (2, 2, 3, 3)), Layer("Shift", by=1)),
]


@pytest.mark.parametrize("record", RECORDS, ids=str)
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_what_a_layer_is_said_to_give_is_what_torch_gives(layer: Layer, record: Shape) -> None:
    stated = layer.after(record)
    try:
        found = tuple(networks.build([layer])(torch.zeros(1, *record)).shape[1:])
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):
        assert stated is None
        return
    assert stated in (found, None)


@pytest.mark.parametrize(
    ("layer", "records"),
    [
        (Layer("Add"), ((4, 6), (4, 6))),
        (Layer("Add"), ((4, 6), (1, 6))),
        (Layer("Add"), ((4, 6), (6,))),
        (Layer("Multiply"), ((3, 1, 1), (3, 5, 2))),
        (Layer("Multiply"), ((3, 2, 1), (3, 5, 2))),
        (Layer("Product"), ((4, 6), (6, 2))),
        (Layer("Product"), ((2, 4, 6), (2, 6, 3))),
        (Layer("Product"), ((4, 6), (4, 6))),
        (Layer("Product"), ((6,), (6,))),
        (Layer("Product"), ((2, 4, 6), (1, 6, 3))),
        (Layer("Concat", (1,)), ((4, 6), (2, 6), (1, 6))),
        (Layer("Concat", (2,)), ((4, 6), (4, 1))),
        (Layer("Concat", (3,)), ((4, 6), (4, 6))),
        (Layer("Concat", (1,)), ((4, 6), (4, 5))),
        (Layer("Concat", (1,)), ((4, 6),)),
    ],
    ids=str,
)
def test_what_joins_outputs_gives_what_torch_gives_and_never_mixes_records(
    layer: Layer, records: tuple[Shape, ...]
) -> None:
    stated = layer.after(*records)
    (module,) = networks.build([layer])
    given = [torch.randn(5, *one, generator=torch.Generator().manual_seed(2)) for one in records]
    if stated is None:
        if layer.kind == "Concat" and len(records) == 1:
            return  # torch takes one; it is no joint
        try:
            found = module(*given)
        except (RuntimeError, ValueError, IndexError):
            return
        assert layer.kind == "Product"  # torch repeats sides that are not equal
        assert len(found) == 5
        return
    whole = module(*given)
    assert tuple(whole.shape[1:]) == stated
    for i in range(5):
        assert torch.equal(module(*(one[i : i + 1] for one in given))[0], whole[i])


def test_a_layer_that_would_reach_across_records_is_stopped() -> None:
    flat, table, other = torch.ones(4), torch.ones(4, 2), torch.ones(2, 2)
    for layer, taken in (
        (Layer("Softmax"), (flat,)),
        (Layer("Add"), (flat, table)),
        (Layer("Add"), (table, other[:1])),
        (Layer("Multiply"), (table, other[0])),
        (Layer("Product"), (table, other)),
        (Layer("Concat", (1,)), (flat, flat)),
    ):
        (module,) = networks.build([layer])
        with pytest.raises(ValueError, match="would reach across records"):
            module(*taken)


def test_a_path_that_leads_nowhere_or_backwards_is_refused() -> None:
    straight = [Layer("Linear", (6, 4)), Layer("Linear", (4, 1))]
    assert networks.output(straight, 6) == (1,)
    for layers, why in (
        ([Layer("Linear", (6, 4)), Layer("Linear", (6, 1), (-1,))], "layer 0: no layer takes the"),
        ([Layer("Linear", (6, 4), (1,)), straight[1]], "layer 0: Linear takes the output of a la"),
        ([straight[0], Layer("Linear", (4, 1), (1,))], "layer 1: Linear takes the output of a lat"),
        (
            [straight[0], Layer("Linear", (4, 3)), Layer("Add", (), (0, 1))],
            r"does not take a record of shape \(4,\) and \(3,\)",
        ),
    ):
        with pytest.raises(ValueError, match=why):
            networks.output(layers, 6)


@pytest.mark.parametrize("layers", [TRANSFORMER, RESIDUAL, networks.mlp(12, (4,))])
def test_a_network_without_its_last_layer_gives_what_that_layer_takes(layers: list[Layer]) -> None:
    module = networks.build(layers)
    records = torch.randn(3, 36 if layers is RESIDUAL else 12)
    features = networks.without_last(module)(records)
    assert torch.equal(module[-1](features), module(records))


def test_a_convolution_of_even_width_and_a_pool_that_enlarges_are_not_taken() -> None:
    assert Layer("Conv2d", (2, 1, 2)).after((2, 8, 7)) is None
    assert Layer("AdaptiveAvgPool2d", (2,)).after((3, 1, 1)) is None
    assert Layer("AdaptiveAvgPool2d", (2,)).after((8, 3, 3)) == (8, 2, 2)


@pytest.mark.parametrize(
    ("layers", "why"),
    [
        ([Layer("Unflatten", (1, 2, 3)), Layer("Linear", (6, 1))], "layer 1: Linear"),
        ([Layer("Linear", (6, 4096)), Layer("Linear", (4096, 4096))], "parameters, limit 4000000"),
        (
            [Layer("Unflatten", (1, 2, 3)), *[Layer("Conv2d", (1, 200_000, 1))]],
            "becomes 1200000 numbers, limit 1000000",
        ),
        ([Layer("Linear", (6, 1)), Layer("Tanh")], "the last layer is a Tanh"),
        ([Layer("Unflatten", (1, 2, 3)), Layer("Conv2d", (1, 1, 2))], "its kernel is odd"),
        ([Layer("Unflatten", (1, 2, 3)), Layer("Conv2d", (1, 1, 7))], "less than twice the image"),
        ([Layer("Unflatten", (6, 1, 1)), Layer("GroupNorm", (6, 6))], "more than one number"),
        ([Layer("Unflatten", (6, 1, 1)), Layer("GroupNorm", (4, 6))], "groups divide"),
        ([Layer("GRU", (6, 2))], "it takes \\(steps, inputs\\)"),
        ([Layer("Unflatten", (2, 3)), Layer("SelfAttention", (3, 2))], "heads divide the width"),
        ([Layer("Linear", (6, 1)), Layer("LayerNorm", (1,))], "width, 2 or more"),
    ],
)
def test_a_network_that_does_not_fit_together_or_is_too_large_is_refused(
    layers: list[Layer], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        networks.output(layers, 6)


@every_network
def test_no_network_has_a_layer_that_looks_at_more_than_one_record(layers: list[Layer]) -> None:
    assert {layer.kind for layer in layers} <= {
        *("Linear", "Conv2d", "GroupNorm", "Tanh", "AvgPool2d", "AdaptiveAvgPool2d"),
        *("Unflatten", "Flatten"),
    }
