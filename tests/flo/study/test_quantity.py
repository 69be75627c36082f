"""A number or a count: what a record's code means, and which studies may have such an outcome."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flo.errors import StudyError
from flo.study.columns import NumberColumn
from flo.study.document import from_document
from flo.study.quantity import Quantity
from tests.builders import WHITENED, study_document
from tests.flo.quantities import COUNT, NUMBER, quantity_document, quantity_study

VALUES = st.floats(-1e6, 1e6).map(lambda x: round(x, 3))
RISING = st.lists(VALUES, min_size=3, max_size=12, unique=True).map(sorted)


@given(RISING, st.data())
def test_a_code_is_the_sum_of_the_shares_of_steps(levels: list[float], data: st.DataObject) -> None:
    quantity = Quantity(kind="number", unit="1", levels=tuple(levels))
    value = data.draw(st.floats(levels[0], levels[-1]))
    ends = np.array(levels)
    shares = np.clip((value - ends[:-1]) / np.diff(ends), 0, 1)
    (code,) = quantity.coded(np.array([value]))
    assert code == pytest.approx(shares.sum(), abs=1e-6)
    assert quantity.valued(np.array([code]))[0] == pytest.approx(value, abs=1e-6 * np.ptp(ends))
    assert levels[0] + shares @ quantity.lengths == pytest.approx(value, abs=1e-6 * np.ptp(ends))


def test_shares_of_the_range_are_values_again() -> None:
    quantity = Quantity(**NUMBER)
    values = np.array([0, 1, 7.5, 10])
    assert quantity.share(values) == pytest.approx([0, 0.1, 0.75, 1])
    assert quantity.at_share(quantity.share(values)) == pytest.approx(values)


def test_the_values_that_a_share_of_patients_exceeds() -> None:
    """A uniform number: half of the patients are above the middle, a tenth above nine tenths."""
    uniform = Quantity(kind="number", unit="1", levels=(0, 2, 4, 6, 8, 10))
    reached = np.array([[0.9, 0.7, 0.5, 0.3, 0.1]]).T
    for share in (0.9, 0.5, 0.25, 0.1):
        assert uniform.exceeded_by(share, reached) == pytest.approx([10 * (1 - share)], rel=0.03)
    assert uniform.exceeded_by(0.95, reached) == 0, "patients may all be at the first level"
    assert uniform.exceeded_by(0.02, reached) == 10, "or at the last"


@pytest.mark.parametrize("at_zero", [0.0, 0.3, 0.7, 0.95])
@pytest.mark.parametrize("at_most", [0.0, 0.2, 0.6])
def test_eight_of_ten_lie_between_the_tails_also_where_values_pile_up_at_a_bound(
    at_zero: float, at_most: float
) -> None:
    """Costs of nothing, and stays that are counted as 60."""
    for kind, levels in (("number", (0, 100, 1000, 5000, 20000)), ("count", (0, 5, 20, 60))):
        outcome = Quantity.model_validate({"kind": kind, "unit": "1", "levels": levels})
        generator = np.random.default_rng(1)
        values = generator.exponential(outcome.levels[-2], 20_000).clip(0, outcome.levels[-1])
        drawn = generator.random(20_000)
        values[drawn < at_zero] = 0
        values[drawn > 1 - min(at_most, 1 - at_zero)] = outcome.levels[-1]
        if kind == "count":
            values = values.round()
        codes = outcome.coded(values)[:, None]
        reached = np.clip(codes - np.arange(outcome.codes - 1), 0, 1).mean(0)[:, None]
        low, high = outcome.tails(reached)
        assert ((low <= values) & (values <= high)).mean() >= 0.8, (kind, low, high)


@given(st.lists(st.floats(0, 1), min_size=4, max_size=4), st.floats(0, 1))
def test_they_are_never_beyond_the_bounds(reached: list[float], share: float) -> None:
    (found,) = Quantity(**COUNT).exceeded_by(share, np.array([reached]).T)
    assert 0 <= found <= 8


def test_explained_is_r_squared_of_a_number_and_of_a_counts_deviance() -> None:
    values, expected = np.array([0.0, 1, 2, 7]), np.array([0.5, 1, 3, 6])
    r_squared = 1 - ((values - expected) ** 2).sum() / ((values - values.mean()) ** 2).sum()
    assert Quantity(**NUMBER).explained(values, expected) == pytest.approx(r_squared)

    def deviance(means: np.ndarray) -> float:
        logs = [0 if y == 0 else y * np.log(y / m) for y, m in zip(values, means, strict=True)]
        return 2 * float(np.sum(logs) - (values - means).sum())

    share = 1 - deviance(expected) / deviance(np.full(4, values.mean()))
    assert Quantity(**COUNT).explained(values, expected) == pytest.approx(share)
    assert np.isnan(Quantity(**COUNT).explained(np.ones(4), expected))


@pytest.mark.parametrize(
    ("outcome", "change", "why"),
    [
        (NUMBER, {"levels": [0, 1]}, "at least 3 items"),
        (NUMBER, {"levels": list(range(13))}, "at most 12 items"),
        (NUMBER, {"levels": [0, 2, 2]}, "levels must rise"),
        (NUMBER, {"levels": [0, 2, 1e16]}, "less than or equal to"),
        (COUNT, {"levels": [1, 2, 3]}, "levels of a count begin at 0, not at 1"),
        (COUNT, {"levels": [0, 1.5, 3]}, "levels of a count are whole numbers, not 1.5"),
        (COUNT, {"levels": [0, 1, 10_001]}, "level 10001 of a count, limit 10000"),
        (COUNT, {"time": "days"}, "Extra inputs are not permitted"),
        (COUNT, {"kind": "ranks"}, "does not match any of the expected tags"),
    ],
)
def test_an_outcome_that_cannot_be(
    outcome: dict[str, Any], change: dict[str, Any], why: str
) -> None:
    with pytest.raises(StudyError, match=re.escape(why)):
        from_document(quantity_document(outcome, **change))


def test_least_squares_is_refused() -> None:
    document = quantity_document()
    document["mechanism"] |= {"algorithm": "least-squares", "steps": 1}
    for name in ("learning_rate", "momentum"):
        del document["mechanism"][name]
    with pytest.raises(StudyError, match="least-squares knows only yes and no"):
        from_document(document)


def test_the_label_is_the_quantity() -> None:
    study = quantity_study(NUMBER, **WHITENED)
    assert isinstance(study.data.value_column, NumberColumn)
    assert (study.data.value_column.name, study.data.value_column.maximum) == ("ill", 10)
    assert study.data.outcome_columns == ("ill",)
    assert study.data.label_codes == 5
    assert study.digest != from_document(study_document(schema_version=4)).digest
    assert from_document(study.model_dump(mode="json")) == study
