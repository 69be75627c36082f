"""Golden cases: which patients they are, and what counts as the same score."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flo.privacy.releases.calibration import Calibration
from flo.published.golden import Golden, cells, compare, compare_risks, names
from flo.study.columns import NumberColumn
from flo.study.models import log_odds, parameter_count
from flo.study.synthetic import encoded, made_up_cells
from tests.builders import small_study
from tests.flo.published_models import weights_of

GENERAL = 128
NETWORK: dict[str, Any] = {"model": {"kind": "mlp", "hidden": [4]}}


def test_they_are_ordinary_patients_and_one_with_each_column_at_every_edge() -> None:
    study = small_study()
    found = names(study.data)
    assert found[0] == "made-up patient 1"
    assert found[GENERAL:] == [
        *("age at its minimum", "age at its maximum"),
        *("ward = a", "ward = b", "ward = c", "ward missing"),
    ]
    own = cells(study.data)
    whole = made_up_cells(study.data)
    for name, first in whole.items():
        np.testing.assert_array_equal(own[name][:GENERAL], first[:GENERAL])
    edges = encoded(study.data, own)[GENERAL:]
    ordinary = encoded(study.data, own)[0]
    assert edges[:2, 0].tolist() == [-1.0, 1.0]
    assert edges[2:, 1:].tolist() == np.eye(4).tolist()
    assert (edges[2:, 0] == ordinary[0]).all()


def test_a_wide_study_has_so_many_of_them_and_no_more() -> None:
    columns = [
        {"kind": "number", "name": f"x{i}", "unit": "u", "minimum": 0, "maximum": 1}
        for i in range(2000)
    ]
    data = small_study().data.model_dump(mode="json") | {"columns": columns}
    study = small_study(data=data)
    assert len(names(study.data)) == 50 + 50
    assert all(len(own) == 50 + 50 for own in cells(study.data).values())
    found = Golden.of(study, np.zeros(parameter_count(study)), None)
    assert found is not None
    assert found.follow_from(study, None)


def test_no_case_is_beyond_a_columns_bounds_by_rounding() -> None:
    """A reader would refuse it: (a + b)/2 + (b - a)/2 may be more than b."""
    columns = [
        {"kind": "number", "name": f"x{i}", "unit": "u"}
        | {"minimum": low / 10, "maximum": high / 10}
        for i, (low, high) in enumerate((low, high) for low in range(7) for high in range(70, 99))
    ]
    data = small_study().data.model_dump(mode="json") | {"columns": columns}
    study = small_study(data=data)
    own = cells(study.data)
    for column in study.data.columns:
        assert isinstance(column, NumberColumn)
        assert own[column.name].min() >= column.minimum
        assert own[column.name].max() <= column.maximum


@pytest.mark.parametrize(("changes", "tolerated"), [({}, 1e-12), (NETWORK, 1e-6)], ids=str)
def test_a_score_may_differ_by_arithmetic_and_by_no_more(
    changes: dict[str, Any], tolerated: float
) -> None:
    study = small_study(**changes)
    weights = weights_of(study)
    golden = Golden.of(study, weights, None)
    assert golden is not None

    def shifted(by: float) -> list[bool]:
        def score(own: Any) -> Any:
            return log_odds(study, weights, encoded(study.data, own)) + by

        return [case.same for case in compare(study, golden, score)]

    assert all(shifted(0.0))
    assert all(shifted(tolerated))
    assert not any(shifted(0.01))
    assert not any(shifted(float("nan")))


def test_a_model_without_finite_scores_has_none() -> None:
    study = small_study()
    weights = weights_of(study)
    weights[-1] = np.inf
    assert Golden.of(study, weights, None) is None


CURVE = Calibration(
    log_odds=tuple(np.linspace(-9, 9, 65)),
    risk=tuple(np.linspace(0.05, 0.9, 65)),
    low=tuple(np.linspace(0.01, 0.8, 65)),
    high=tuple(np.linspace(0.1, 0.95, 65)),
    level=0.9,
)


@pytest.mark.parametrize("place", range(65))
def test_a_point_of_the_calibration_that_moved_is_found_wherever_it_is(place: int) -> None:
    """Also where no made-up patient has such a score."""
    study = small_study()
    golden = Golden.of(study, weights_of(study), CURVE)
    assert golden is not None
    assert golden.follow_from(study, CURVE)
    assert all(case.same for case in compare_risks(study, golden, CURVE))
    moved = list(CURVE.risk)
    moved[place] += 1e-6
    curve = CURVE.model_copy(update={"risk": tuple(moved)})
    found = [case.name for case in compare_risks(study, golden, curve) if not case.same]
    assert f"log odds {CURVE.log_odds[place]:.3f}" in found


def test_a_curve_of_other_points_is_found_and_the_first_cases_are_still_read() -> None:
    study = small_study()
    golden = Golden.of(study, weights_of(study), CURVE)
    assert golden is not None
    assert golden.risks is not None
    ends = {name: getattr(CURVE, name)[:-1] for name in ("log_odds", "risk", "low", "high")}
    shorter = CURVE.model_copy(update=ends)
    assert not golden.follow_from(study, shorter)
    assert not all(case.same for case in compare_risks(study, golden, shorter))
    count = len(golden.log_odds)
    first = Golden(log_odds=golden.log_odds, risks=golden.risks[:count])
    assert first.cases == 1
    assert first.follow_from(study, CURVE)
    assert len(compare_risks(study, first, CURVE)) == count
    for cases, risks in ((1, golden.risks), (2, golden.risks[: count - 1])):
        with pytest.raises(ValueError, match="golden cases"):
            Golden(cases=cases, log_odds=golden.log_odds, risks=risks)  # type: ignore[arg-type]
    assert not Golden(cases=2, log_odds=golden.log_odds, risks=golden.risks[:-1]).follow_from(
        study, CURVE
    )
