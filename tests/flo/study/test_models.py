"""The models of a study: counted, started, laid out and scored the same by everyone."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flo.arrays import Floats
from flo.study import models, networks
from flo.study.document import Study, from_document
from flo.study.features import input_names
from flo.study.synthetic import made_up_inputs
from tests.builders import WHITENED, small_study, study_document
from tests.flo.studies import JOINED, PACK, SEQUENCE

LOGISTIC = small_study()
MLP = small_study(model={"kind": "mlp", "hidden": [7, 3]})

ON_WHITENED = small_study(
    model=MLP.model.model_dump(mode="json"), mechanism=study_document()["mechanism"] | WHITENED
)


def image_study(height: int = 8, width: int = 8, channels: int = 1, **changes: Any) -> Study:
    document = study_document(model={"kind": "cnn"}, **changes)
    document["data"]["columns"] = [
        {
            **{"kind": "image", "name": "px", "minimum": 0, "maximum": 255},
            **{"channels": channels, "height": height, "width": width},
        }
    ]
    return from_document(document)


CNN = image_study(9, 8, 2)
PACKED = small_study(model=PACK)
OVER_STEPS = small_study(model=SEQUENCE)
JOINED_PATHS = small_study(model=JOINED)
STUDIES = {
    "logistic": LOGISTIC,
    "mlp": MLP,
    "whitened mlp": ON_WHITENED,
    "cnn": CNN,
    "pack": PACKED,
    "joined pack": JOINED_PATHS,
}
NETWORKS = {"mlp": MLP, "cnn": CNN, "pack": PACKED, "joined pack": JOINED_PATHS}
every_study = pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES.keys())
every_network = pytest.mark.parametrize("study", NETWORKS.values(), ids=NETWORKS.keys())


pytestmark = pytest.mark.usefixtures("one_thread")


def some_weights(study: Study, seed: int = 1) -> Floats:
    return np.random.default_rng(seed).normal(size=models.parameter_count(study)) / 2


def some_inputs(study: Study, records: int, seed: int = 2) -> Floats:
    shape = (records, len(input_names(study.data)))
    return np.random.default_rng(seed).uniform(-1, 1, size=shape)


# -- parameters ------------------------------------------------------------------------------------


@every_study
def test_made_up_records_have_the_same_log_odds_together_as_alone(study: Study) -> None:
    weights = np.random.default_rng(5).normal(0, 0.3, len(models.initial_weights(study)))
    alone = models.scores(study, weights, made_up_inputs(study.data)[:40])
    together = models.made_up_scores(study, weights)
    assert together.shape == (len(made_up_inputs(study.data)), study.data.outputs)
    np.testing.assert_allclose(together[:40], alone, rtol=1e-4, atol=1e-4)
    assert np.ptp(alone) > 0.01


@every_study
def test_the_module_of_a_study_has_as_many_parameters_as_the_study_counts(study: Study) -> None:
    module = models.build(study)
    assert models.parameter_count(study) == sum(p.numel() for p in module.parameters())
    assert models.parameter_count(study) == networks.size(models.layers(study))


def test_a_logistic_model_has_a_parameter_per_input_and_a_bias() -> None:
    assert models.parameter_count(LOGISTIC) == len(input_names(LOGISTIC.data)) + 1 == 6


def test_a_logistic_model_is_computed_in_float64_and_others_in_float32() -> None:
    for study, dtype in ((LOGISTIC, torch.float64), (MLP, torch.float32), (CNN, torch.float32)):
        assert {p.dtype for p in models.build(study).parameters()} == {dtype}


@every_study
def test_named_tensors_are_the_flat_vector_and_load_into_the_module(study: Study) -> None:
    weights, module = some_weights(study), models.build(study)
    tensors = models.named(study, weights)
    np.testing.assert_array_equal(np.concatenate([t.ravel() for t in tensors.values()]), weights)
    module.load_state_dict({name: torch.from_numpy(t) for name, t in tensors.items()}, strict=True)
    flat = torch.nn.utils.parameters_to_vector(module.parameters()).detach().numpy()
    np.testing.assert_array_equal(flat, weights.astype(flat.dtype))
    # Whoever loads the published tensors into torch scores patients as FLO does.
    inputs = some_inputs(study, 20)
    dtype = next(module.parameters()).dtype
    with torch.inference_mode():
        theirs = module(torch.from_numpy(inputs).to(dtype))[:, 0].double().numpy()
    rtol = 1e-12 if dtype == torch.float64 else 1e-4
    np.testing.assert_allclose(models.log_odds(study, weights, inputs), theirs, rtol, atol=1e-5)


def test_a_published_recurrent_layer_loads_into_torchs_own_by_name() -> None:
    weights = some_weights(OVER_STEPS)
    tensors, module = models.named(OVER_STEPS, weights), models.build(OVER_STEPS)
    torch.nn.utils.vector_to_parameters(torch.from_numpy(weights).float(), module.parameters())
    layer = torch.nn.GRU(1, 4, batch_first=True)
    named = {name[2:]: torch.from_numpy(t) for name, t in tensors.items() if name[:2] == "1."}
    layer.load_state_dict(named, strict=True)
    inputs = torch.from_numpy(some_inputs(OVER_STEPS, 20)).float()
    with torch.inference_mode():
        torch.testing.assert_close(layer(inputs[:, :, None])[0], module[:2](inputs))
        theirs = module(inputs)[:, 0].double().numpy()
    ours = models.log_odds(OVER_STEPS, weights, inputs.double().numpy())
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_layers_over_steps_start_as_torch_starts_them() -> None:
    tensors = models.named(OVER_STEPS, models.initial_weights(OVER_STEPS))
    assert set(tensors["3.weight"].tolist()) == {1.0}
    assert set(tensors["3.bias"].tolist()) == {0.0}
    others = {name: t for name, t in tensors.items() if name[0] in "125"}
    assert len(others) == 4 + 8 + 2
    for name, tensor in others.items():
        assert 0 < np.abs(tensor).max() <= 1 / math.sqrt(4), name


@pytest.mark.processes
def test_counting_and_starting_a_model_needs_no_torch() -> None:
    code = (
        "import json, sys\n"
        "from flo.study import models\n"
        "from flo.study.document import from_document\n"
        "study = from_document(json.loads(sys.argv[1]))\n"
        "models.named(study, models.initial_weights(study))\n"
        "assert models.parameter_count(study) and models.largest_batch(study)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, CNN.model_dump_json()], check=True, timeout=60)


# -- the public start ------------------------------------------------------------------------------


def test_a_logistic_model_starts_at_zero_and_says_a_half_to_everyone() -> None:
    start = models.initial_weights(LOGISTIC)
    assert start.tolist() == [0.0] * 6
    assert models.log_odds(LOGISTIC, start, some_inputs(LOGISTIC, 5)).tolist() == [0.0] * 5


@every_network
def test_a_network_starts_where_every_partner_of_the_same_study_finds_it(study: Study) -> None:
    again = from_document(study.model_dump(mode="json"))
    start = models.initial_weights(study)
    np.testing.assert_array_equal(models.initial_weights(again), start)
    assert start.shape == (models.parameter_count(study),)
    assert start.dtype == np.float32


def test_the_digits_of_the_start_are_shake_256_of_the_digest() -> None:
    stream = hashlib.shake_256(f"initial weights {MLP.digest}".encode())
    digits = stream.digest(8 * models.parameter_count(MLP))
    fan_ins = [5] * (5 * 7 + 7) + [7] * (7 * 3 + 3) + [3] * (3 + 1)
    expected = [
        (int.from_bytes(digits[8 * i : 8 * i + 8], "little") / 2**63 - 1) / math.sqrt(fan_in)
        for i, fan_in in enumerate(fan_ins)
    ]
    start = np.array(expected, dtype=np.float32)
    np.testing.assert_allclose(models.initial_weights(MLP), start, rtol=1e-7, atol=0)


def test_on_whitened_inputs_the_digits_become_a_start_that_is_nearly_linear() -> None:
    digest = "c9df2c7f78dee7a3c3c74251d383c08dba3a38eaf660df9c349bbdbf9d44ad5a"
    assert ON_WHITENED.digest == digest, "partners check the start, also after an upgrade"
    stream = hashlib.shake_256(f"initial weights {digest}".encode())
    digits = stream.digest(8 * (6 * 7 + 8 * 3 + 4))
    even = [
        int.from_bytes(digits[8 * i : 8 * i + 8], "little") / 2**63 - 1
        for i in range(len(digits) // 8)
    ]
    first, (second, output) = even[: 6 * 7], (even[42 : 42 + 21], even[-4:-1])
    length = math.sqrt(sum(number**2 for number in output))
    expected = [
        *(0.1 * number / math.sqrt(6) for number in first),
        *(number * math.sqrt(3 / 7) for number in second),
        *(0.0, 0.0, 0.0),
        *(4 * number / length for number in output),
        0.0,
    ]
    np.testing.assert_allclose(models.initial_weights(ON_WHITENED), expected, rtol=1e-14, atol=0)


@every_network
def test_a_network_of_another_study_starts_elsewhere(study: Study) -> None:
    other = from_document({**study.model_dump(mode="json"), "version": 2})
    assert (models.initial_weights(other) != models.initial_weights(study)).mean() > 0.9


def test_the_start_never_changes_between_versions_of_flo() -> None:
    # Partners check it, and a run must end the same after an upgrade.
    older = small_study(schema_version=2, model={"kind": "mlp", "hidden": [7, 3]})
    assert older.digest == "811641bb44c6b12bf9365cc8e0a77913b5aad1b36b740503af64cf74d22bcb42"
    start = models.initial_weights(older)
    digits = np.array([0.023442072620518, 0.008798991760716158, -0.30877408673831597])
    np.testing.assert_array_equal(start[[0, 1, -1]], digits.astype(np.float32))


@every_network
def test_a_network_starts_within_one_by_the_root_of_each_layers_inputs(study: Study) -> None:
    tensors = models.named(study, models.initial_weights(study))
    fan_in = 0
    for name, tensor in tensors.items():
        if name.endswith("weight"):
            fan_in = math.prod(tensor.shape[1:])
        if tensor.ndim == 1 and fan_in == 1:
            continue  # a normalisation, see below
        bound = 1 / math.sqrt(fan_in)
        assert np.abs(tensor).max() <= bound
        if tensor.size > 50:
            # Even over the range, and not in one corner of it: false alarm 0, the start is fixed.
            assert np.abs(tensor).max() > 0.9 * bound
            assert abs(tensor.mean()) < 4 * bound / math.sqrt(3 * tensor.size)
            assert tensor.std() == pytest.approx(bound / math.sqrt(3), rel=0.25)


def test_a_normalisation_starts_as_the_identity() -> None:
    tensors = models.named(CNN, models.initial_weights(CNN))
    places = [i for i, layer in enumerate(models.layers(CNN)) if layer.kind == "GroupNorm"]
    assert len(places) == 2
    for place in places:
        assert set(tensors[f"{place}.weight"].tolist()) == {1.0}
        assert set(tensors[f"{place}.bias"].tolist()) == {0.0}


# -- scores ----------------------------------------------------------------------------------------


def test_log_odds_of_a_logistic_model_by_hand() -> None:
    weights = np.array([1.0, 2.0, 0.0, -1.0, 0.5, 0.25])
    inputs = np.array([[0.5, 1, 0, 0, 0], [-1.0, 0, 0, 1, 0], [0.0, 0, 0, 0, 1]])
    assert models.log_odds(LOGISTIC, weights, inputs).tolist() == [2.75, -1.75, 0.75]


@every_study
def test_removing_or_reordering_records_changes_no_bit_of_anyones_score(study: Study) -> None:
    weights, inputs = some_weights(study), some_inputs(study, 67)
    together = models.log_odds(study, weights, inputs)
    assert together.shape == (67,)
    assert together.dtype == np.float64
    assert len(set(together.tolist())) == 67
    generator = np.random.default_rng(3)
    for count in (1, 2, 3, 5, 8, 31, 66):
        some = generator.permutation(67)[:count]
        np.testing.assert_array_equal(models.log_odds(study, weights, inputs[some]), together[some])
    for i in range(67):
        one = models.log_odds(study, weights, inputs[i : i + 1])
        np.testing.assert_array_equal(one, together[i : i + 1])


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 300), st.integers(2, 60), st.integers(0, 2**32 - 1), st.data())
def test_a_logistic_score_of_any_width_is_the_same_bit_by_bit_in_any_company(
    width: int, records: int, seed: int, data: st.DataObject
) -> None:
    generator = np.random.default_rng(seed)
    weights = generator.normal(size=width + 1)
    inputs = generator.normal(size=(records, width)) * 10.0 ** generator.integers(-8, 8)
    some = data.draw(st.lists(st.integers(0, records - 1), min_size=1, max_size=5))
    together = models.log_odds(LOGISTIC, weights, inputs)
    np.testing.assert_array_equal(models.log_odds(LOGISTIC, weights, inputs[some]), together[some])
    # Nor does it matter how the array lies in memory.
    columns_first = np.asfortranarray(inputs)
    np.testing.assert_array_equal(models.log_odds(LOGISTIC, weights, columns_first), together)


@every_study
def test_a_strange_record_spoils_nobody_elses_score(study: Study) -> None:
    weights, inputs = some_weights(study), some_inputs(study, 9)
    alone = models.log_odds(study, weights, inputs)
    inputs[4] = math.nan
    beside = models.log_odds(study, weights, inputs)
    assert math.isnan(beside[4])
    np.testing.assert_array_equal(np.delete(beside, 4), np.delete(alone, 4))


@every_study
def test_nobody_has_no_scores(study: Study) -> None:
    assert models.log_odds(study, some_weights(study), some_inputs(study, 0)).shape == (0,)


# -- micro-batches ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, 16, 17, 120, 130, 510, 520, 1000, 10_000_000])
@pytest.mark.parametrize("kind", ["logistic", "mlp", "cnn"])
def test_a_micro_batch_is_a_public_power_of_two(kind: str, size: int) -> None:
    changes: dict[str, Any] = {
        "hospitals": [{"id": "small", "declared_size": 10}, {"id": "big", "declared_size": size}],
        "mechanism": {**study_document()["mechanism"], "delta": 1e-9},
    }
    model = {"kind": "mlp", "hidden": [3]} if kind == "mlp" else {"kind": kind}
    study = image_study(**changes) if kind == "cnn" else small_study(model=model, **changes)
    batch = models.largest_batch(study)
    assert batch & (batch - 1) == 0
    assert 1 <= batch <= (128 if kind == "cnn" else 512)
    assert batch < 2 * size  # no more than the largest partner needs
    assert batch == models.largest_batch(from_document(study.model_dump(mode="json")))
