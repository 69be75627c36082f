"""Several classes as an outcome: what can be one, and what a model's scores mean."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, softmax

from flo.errors import StudyError
from flo.privacy.gradients.bookkeeping import categorical_loss, loss_of
from flo.study import models
from flo.study.classes import Classes, against_others
from flo.study.columns import CategoryColumn
from flo.study.document import from_document
from tests.builders import WHITENED
from tests.flo.class_studies import CLASSES, NAMES, class_document, class_study

outputs = st.lists(st.lists(st.floats(-30, 30), min_size=3, max_size=3), min_size=1, max_size=9)


@given(outputs)
def test_a_score_is_the_log_odds_of_its_class_against_all_others(rows: list[list[float]]) -> None:
    found = against_others(np.array(rows))
    assert expit(found) == pytest.approx(softmax(rows, axis=1), abs=1e-12)
    alone = np.concatenate([against_others(np.array([row])) for row in rows])
    np.testing.assert_array_equal(found, alone)


def test_outputs_without_bounds_have_finite_scores() -> None:
    found = against_others(np.array([[1e300, -1e300, 0.0], [0.0, 0.0, 0.0]]))
    assert np.isfinite(found).all()
    assert found[1] == pytest.approx([-math.log(2)] * 3)
    assert not np.isfinite(against_others(np.array([[math.nan, 0.0, 0.0]]))).all()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"classes": ["a", "b"]}, "two are yes or no, without [data.outcome]"),
        (
            {"classes": [str(n) for n in range(13)]},
            "13 classes, limit 12: merge those that few have",
        ),
        ({"classes": ["a", "b", "a"]}, "the classes 'a' and 'a' cannot be told apart"),
        ({"classes": ["1", "2", "1.0"]}, "the classes '1' and '1.0' cannot be told apart"),
        ({"classes": ["I", "II", "i"]}, "the classes 'I' and 'i' cannot be told apart"),
        ({"classes": ["é", "b", "e\u0301"]}, "cannot be told apart"),
        ({"classes": ["a", "b", "NA"]}, "it means missing"),
        ({"classes": ["a", "b", " c"]}, "outer spaces"),
        ({"unit": "days"}, "Extra inputs are not permitted"),
    ],
)
def test_classes_that_cannot_be(change: dict[str, Any], why: str) -> None:
    with pytest.raises(StudyError, match=re.escape(why)):
        from_document(class_document(CLASSES, **change))


def test_the_label_is_the_class() -> None:
    data = class_study().data
    assert isinstance(data.value_column, CategoryColumn)
    assert (data.value_column.name, data.value_column.codes) == ("ill", NAMES)
    assert (data.outputs, data.label_codes, data.outcome_columns) == (3, 3, ("ill",))
    study = class_study()
    assert from_document(study.model_dump(mode="json")) == study


def test_classes_that_identify_patients_are_refused() -> None:
    names = [f"{number:07}" for number in range(1_940_115, 1_940_127)]
    found = from_document(class_document(CLASSES, classes=names))
    assert found.data.looked_at[0].name == "ill"
    document = class_document()
    document["data"]["label"] = "patient_id"
    with pytest.raises(StudyError, match="must not identify patients") as refused:
        from_document(document).refuse_identifying()
    assert str(refused.value).count("patient_id") == 1


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        ({"kind": "logistic"}, (3, 5)),
        ({"kind": "mlp", "hidden": [4]}, (3, 4)),
    ],
)
def test_a_model_has_an_output_for_each_class(
    model: dict[str, Any], shape: tuple[int, int]
) -> None:
    document = class_document()
    document["model"] = model
    study = from_document(document)
    weights = np.random.default_rng(1).normal(size=models.parameter_count(study))
    assert list(models.named(study, weights).values())[-2].shape == shape
    inputs = np.random.default_rng(2).uniform(-1, 1, (7, 5))
    module = models.build(study)
    exact = torch.from_numpy(weights).to(next(module.parameters()).dtype)
    torch.nn.utils.vector_to_parameters(exact, module.parameters())
    rows = torch.from_numpy(inputs).to(exact.dtype)
    theirs = softmax(module(rows).detach().numpy(), axis=1)
    found = models.scores(study, weights, inputs)
    assert expit(found) == pytest.approx(theirs, abs=1e-5)
    np.testing.assert_array_equal(models.scores(study, weights, inputs[3:4]), found[3:4])
    assert models.scores(study, weights, inputs[:0]).shape == (0, 3)


@pytest.mark.parametrize("hidden", [(), (6,)])
def test_training_starts_where_every_class_is_nearly_as_likely(hidden: tuple[int, ...]) -> None:
    document = class_document()
    document["model"] = {"kind": "mlp", "hidden": list(hidden)} if hidden else {"kind": "logistic"}
    document["mechanism"] |= WHITENED
    study = from_document(document)
    start = models.initial_weights(study)
    if hidden:
        last = list(models.named(study, start[: models.parameter_count(study)]).values())[-2]
        norms = np.linalg.norm(last, axis=1)
        assert norms == pytest.approx(models.OUTPUT_NORM)
    else:
        assert not start.any()


def test_a_pack_needs_as_many_outputs() -> None:
    document = class_document()
    layers = [{"kind": "Linear", "sizes": [5, 1]}]
    document["model"] = {"kind": "pack", "name": "own", "layers": layers}
    with pytest.raises(StudyError, match=re.escape("output has shape (1,), not (3,)")):
        from_document(document)


def test_it_is_trained_by_the_cross_entropy_of_its_class() -> None:
    assert loss_of(Classes(**CLASSES)) is categorical_loss
