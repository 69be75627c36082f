"""Frozen layers: their numbers come from a file that the study names, and are never trained."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from safetensors.numpy import save

from flo.clients.home.policy import Policy, refuse_violations
from flo.documents import canonical
from flo.errors import PolicyError, StudyError, UsageError
from flo.lab import ray_engine
from flo.lab.folds import Fold
from flo.privacy.accounting.plan import Plan
from flo.published.golden import Golden
from flo.study import frozen, models, networks
from flo.study.document import Study, from_document
from flo.study.encoders import Encoder
from flo.study.features import encode_image
from flo.study.loading import from_canonical
from flo.study.packs import Pack
from flo.study.synthetic import made_up_inputs
from tests.commands import flo
from tests.flo.studies import FROZEN_TAIL, PACK, frozen_study

TRAINED = 6 * 2 + 2 + 2 * 4 + 4 + 4 + 1


def file_of(changes: dict[str, Any] | None = None, seed: int = 1) -> bytes:
    dice = np.random.default_rng(seed)
    kept = {"0.weight": dice.normal(size=(4, 6)), "0.bias": dice.normal(size=4)}
    return frozen.to_bytes(
        {name: one for name, one in {**kept, **(changes or {})}.items() if len(one)}
    )


def known_study() -> Study:
    return frozen_study(frozen.learn(file_of()))


def test_only_adapters_and_the_last_layer_are_trained_and_pay_for_noise() -> None:
    study = known_study()
    assert models.parameter_count(study) == TRAINED
    assert Plan.of(study).purpose("training").mechanism.length == TRAINED
    module = models.build(study)
    assert sum(p.numel() for p in module.parameters()) == TRAINED


def test_training_starts_from_the_network_as_it_was() -> None:
    study, inputs = known_study(), made_up_inputs(known_study().data)
    weights = models.initial_weights(study)
    named = models.named(study, weights)
    assert not named["2.weight"].any()
    assert not named["2.bias"].any()
    assert named["1.weight"].any()
    known = frozen.of(study.frozen_file or "", networks.frozen_shapes(models.layers(study)))
    hidden = np.tanh(inputs @ known["0.weight"].T + known["0.bias"])
    truth = hidden @ named["5.weight"].T + named["5.bias"]
    np.testing.assert_allclose(models.scores(study, weights, inputs), truth, atol=1e-5)


def test_a_step_changes_nothing_of_the_frozen_numbers() -> None:
    module = models.build(known_study())
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    assert sorted(before) == ["0.layer.bias", "0.layer.weight"]
    torch.autograd.backward(module(torch.randn(5, 6)).sum())
    torch.optim.SGD(module.parameters(), 1.0).step()
    for name, buffer in module.named_buffers():
        assert torch.equal(buffer, before[name])
        assert buffer.grad is None


def test_it_is_part_of_the_study_and_others_keep_their_digests() -> None:
    study = known_study()
    assert from_canonical(study.canonical_bytes) == study
    assert isinstance(study.model, Pack)
    assert {study.model.digest, frozen_study("1" * 64).digest} != {study.digest}
    assert "Linear 6 × 4, frozen" in study.model.in_words
    assert "Linear 2 × 4, from 0" in study.model.in_words
    assert f"frozen numbers: file {study.frozen_file}" in study.model.in_words
    plain = Pack.model_validate(PACK).to_bytes()
    assert not any(word in plain for word in (b"numbers", b"frozen", b"zero"))
    scaled = Encoder(name="six", file="0" * 64, features=6)
    assert b"scaled" not in scaled.to_bytes()
    assert Encoder.model_validate_json(scaled.to_bytes()) == scaled


def test_an_encoders_numbers_are_left_as_they_are_where_the_study_says_so() -> None:
    (column,) = frozen_study().data.columns
    features = np.random.default_rng(3).normal(size=(4, 6))
    assert column.kind == "image"
    np.testing.assert_array_equal(encode_image(column, features), features)
    (usual,) = frozen_study(scaled=True).data.columns
    assert usual.kind == "image"
    assert not np.array_equal(encode_image(usual, features), features)


def test_where_the_file_is_not_known_no_model_is_built_and_the_file_is_named() -> None:
    unknown = os.urandom(32).hex()
    study = frozen_study(unknown)
    with pytest.raises(StudyError, match=f"not known here: file {unknown}") as refused:
        models.scores(study, models.initial_weights(study), made_up_inputs(study.data))
    assert "flo model predict" in refused.value.hint
    assert Golden.of(study, models.initial_weights(study), None) is None  # at the coordinator


@pytest.mark.parametrize(
    ("data", "told"),
    [
        pytest.param(b"", "is not safetensors", id="empty"),
        pytest.param(b"\x80\x04pickle", "is not safetensors", id="pickle"),
        pytest.param(b"PK\x03\x04", "is not safetensors", id="wheel"),
        pytest.param(file_of()[:-3], "is not safetensors", id="cut off"),
        pytest.param(save({"0.bias": np.zeros(4)}), "'0.bias' are not float32", id="float64"),
        pytest.param(file_of({"0.bias": [1, 2, 3, np.nan]}), "not finite", id="NaN"),
    ],
)
def test_a_file_that_is_no_such_file_is_refused(data: bytes, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        frozen.learn(data)


def test_a_file_that_is_too_large_is_refused_before_it_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(frozen, "MOST_BYTES", 100)
    with pytest.raises(UsageError, match="bytes, limit 100"):
        frozen.learn(file_of(seed=9))


@pytest.mark.parametrize(
    ("changes", "other"),
    [
        ({"0.bias": []}, "0.bias"),
        ({"0.bias": np.zeros(5)}, "0.bias"),
        ({"1.weight": np.zeros((2, 6))}, "1.weight"),
    ],
    ids=["one less", "another shape", "of a layer that is trained"],
)
def test_a_file_with_other_numbers_than_the_layers_need_is_refused(
    changes: dict[str, Any], other: str
) -> None:
    study = frozen_study(frozen.learn(file_of(changes, seed=2)))
    with pytest.raises(StudyError, match=f"others than the pack's layers: {other}"):
        models.build(study)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"numbers": None}, "numbers: the file of frozen layers' numbers"),
        ({"numbers": "../x"}, "numbers"),
        ({"layers": [*FROZEN_TAIL[:-1], FROZEN_TAIL[-1] | {"zero": 1.5}]}, "zero"),
        ({"layers": [FROZEN_TAIL[0] | {"zero": True}, *FROZEN_TAIL[1:]]}, "zero: of a Linear that"),
        ({"layers": [*FROZEN_TAIL[:4], {"kind": "Tanh", "frozen": True}]}, "frozen: of Linear"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], told: str) -> None:
    document = frozen_study().model_dump(mode="json")
    document["model"] |= change
    with pytest.raises(StudyError, match=told):
        from_document(document)


def test_frozen_layers_without_an_encoder_are_refused() -> None:
    """The coordinator would need their numbers, to place scores on a public scale."""
    document = frozen_study().model_dump(mode="json")
    document["data"]["columns"] = [
        {"kind": "number", "name": f"x{i}", "unit": "1", "minimum": 0, "maximum": 1}
        for i in range(6)
    ]
    with pytest.raises(StudyError, match="frozen layers need a column with an encoder"):
        from_document(document)


def test_a_gate_or_a_monitor_of_frozen_layers_is_refused() -> None:
    document = frozen_study().model_dump(mode="json")
    document["gate"] = {"current": "1" * 64, "epsilon": 0.3, "prevalence": 0.2}
    with pytest.raises(StudyError, match="frozen layers has no gate and no monitor"):
        from_document(document)


def test_packs_that_differ_in_the_file_only_have_other_digests_and_policy_knows_one() -> None:
    one, other = frozen_study("1" * 64).model, frozen_study("2" * 64).model
    assert isinstance(one, Pack)
    assert isinstance(other, Pack)
    assert one.digest != other.digest
    policy = Policy(packs=(one.digest,), encoders=("0" * 64,))
    with pytest.raises(PolicyError, match=f"model pack tail, {other.digest}, which is not"):
        refuse_violations(policy, frozen_study("2" * 64), "north", 0.9, ())
    refuse_violations(policy, frozen_study("1" * 64), "north", 0.9, ())


def test_a_frozen_last_layer_stays_as_it_is_in_whatever_is_refitted() -> None:
    """Only an adapter is trained; what the model says is the one feature that is left to refit."""
    document = frozen_study().model_dump(mode="json")
    document["model"]["layers"][5]["frozen"] = True
    more = {"5.weight": np.ones((1, 4)), "5.bias": np.zeros(1)}
    document["model"]["numbers"] = frozen.learn(file_of(more))
    study = from_document(document)
    assert models.parameter_count(study) == TRAINED - 5
    weights = np.random.default_rng(4).normal(size=TRAINED - 5).astype(np.float32)
    inputs = made_up_inputs(study.data)
    features = models.last_features(study, weights, inputs)
    layer = models.last_layer(study, weights)
    np.testing.assert_allclose(
        features @ layer[:-1] + layer[-1], models.scores(study, weights, inputs)[:, 0], atol=1e-6
    )


def test_a_file_that_no_loaded_study_has_is_forgotten() -> None:
    kept, gone = frozen.learn(file_of(seed=5)), frozen.learn(file_of(seed=6))
    frozen.keep_only({kept, None})
    shapes = {"0.weight": (4, 6), "0.bias": (4,)}
    assert frozen.of(kept, shapes)
    with pytest.raises(StudyError, match="not known here"):
        frozen.of(gone, shapes)


def test_a_header_of_many_names_is_refused_before_it_is_read() -> None:
    many = save({str(n): np.zeros(0, np.float32) for n in range(40_000)})
    with pytest.raises(UsageError, match=r"a header of \d+ bytes, limit 1048576"):
        frozen.learn(many)


def test_neither_an_export_nor_many_processes_have_the_numbers() -> None:
    with pytest.raises(UsageError, match="the engine ray does not carry frozen layers"):
        ray_engine.run_on_ray(known_study(), Fold({}))


def test_check_and_attack_take_the_folder_and_say_so(tmp_path: Path) -> None:
    study, data = tmp_path / "study.toml", file_of(seed=7)
    document = frozen_study(frozen.learn(data)).model_dump(mode="json", exclude_none=True)
    study.write_text(tomli_w.dumps(document))
    frozen.keep_only(set())
    refused = flo("study", "check", study)
    assert "has frozen layers, whose numbers are in a file of their own" in refused.stderr
    assert "--encoders FOLDER, with the file" in refused.stderr
    (tmp_path / f"{canonical.digest(data)}.safetensors").write_bytes(data)
    checked = flo("study", "check", study, "--encoders", tmp_path)
    assert "book-keeping" in checked.stdout, checked.stderr
