"""What a change would do: the model's own answer for the changed patient, where noise allows it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flo.errors import UsageError
from flo.published.model_card import PublishedModel
from flo.published.what_if import what_ifs
from flo.study.synthetic import encoded, made_up_cells, made_up_inputs
from tests.flo.published.test_explanation import P, model_with
from tests.flo.published_models import made
from tests.flo.study.test_wording import SURGERY, worded

AIMS: list[dict[str, Any]] = [
    {"about": "age at admission", "changeable_to": 20, "changeable_from": "above"},
    {"meanings": SURGERY, "changeable_to": "a"},
]
QUIET = [2.0, -1.0, 0.5, 0.7, 0.25, -3.0]  # age; ward = a, b, c, missing; intercept


def aimed(weights: list[float], deviation: float, *aims: dict[str, Any]) -> PublishedModel:
    model = model_with(weights, deviation**2 * np.eye(P))
    return replace(model, study=worded(*aims))


def test_a_change_says_what_the_model_says_of_the_changed_patient() -> None:
    model = aimed(QUIET, 1e-6, *AIMS)
    cells = made_up_cells(model.study.data, 200)
    inputs = encoded(model.study.data, cells)
    found = what_ifs(model, inputs)
    exact = {
        "age at admission": model.log_odds(
            encoded(model.study.data, cells | {"age": np.full(200, 20.0)})
        ),
        "ward": model.log_odds(encoded(model.study.data, cells | {"ward": np.zeros(200)})),
    }
    before, shown = model.log_odds(inputs), 0
    for patient, own in enumerate(found):
        assert own == sorted(own, key=lambda one: one.log_odds), "the largest fall first"
        for one in own:
            assert one.log_odds == pytest.approx(exact[one.column][patient])
            shown += 1
        said = {one.column for one in own}
        for name, column in (("age at admission", "age"), ("ward", "ward")):
            missing = column == "ward" and cells["ward"][patient] < 0
            missing |= column == "age" and cells["age"][patient] <= 20
            falls = exact[name][patient] < before[patient] - 1e-9
            assert (name in said) == (falls and not missing)
    assert shown > 100
    assert {one.value for own in found for one in own} == {"20 years", "a (surgery)"}


def test_what_noise_may_have_turned_is_not_said() -> None:
    patient = encoded(worded(*AIMS).data, {"age": np.array([90.0]), "ward": np.array([1.0])})
    fall = 2.0 * 1.4  # from .8 to -.6 of the scaled age
    for share, count in ((1 / 3.01, 1), (1 / 2.99, 0)):
        model = aimed(QUIET, share * fall / 1.4, AIMS[0])
        assert len(what_ifs(model, patient)[0]) == count


@pytest.mark.parametrize("weight", [2.0, -2.0])
def test_nobody_is_told_to_get_worse(weight: float) -> None:
    """Care brings the age down to 20; noise or others may have turned the weight."""
    model = aimed([weight, 0.0, 0.0, 0.0, 0.0, 0.0], 1e-6, AIMS[0])
    patients = {"age": np.array([10.0, 20.0, 30.0]), "ward": np.zeros(3)}
    found = what_ifs(model, encoded(model.study.data, patients))
    assert list(map(len, found)) == [0, 0, int(weight > 0)]


def test_nothing_is_said_that_no_study_named_or_whose_noise_is_not_known() -> None:
    assert what_ifs(aimed(QUIET, 1e-6), made_up_inputs(worded().data)[:3]) == [[], [], []]
    with pytest.raises(UsageError, match="states no noise"):
        what_ifs(made("logistic").open(), made_up_inputs(worded().data)[:3])
