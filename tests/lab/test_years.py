"""Years of one study: who takes part, what a model learns of them, and what a patient pays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flo.errors import UsageError
from flo.lab.by_year import WAYS
from flo.lab.notebook import simulate
from flo.lab.years import study_of_a_year
from flo.privacy.releases import second_moments, whitening
from flo.server.rounds.continuing import (
    LITTLE,
    EarlierModel,
    combined,
    starts_from_earlier,
)
from flo.study.document import Study, from_document
from flo.study.loading import load
from flo.study.models import log_odds, parameter_count
from flo.study.usual import worth
from tests.paths import EXAMPLES

HEART = load(EXAMPLES / "heart" / "study.toml")
SUPPORT2 = load(EXAMPLES / "support2" / "study.toml")
NETWORK = from_document(
    SUPPORT2.model_dump(mode="json", exclude={"evaluation": {"bins"}})
    | {"model": {"kind": "mlp", "hidden": [7]}}
)


def test_a_year_expects_its_share_and_is_a_study_of_its_own() -> None:
    years = [study_of_a_year(SUPPORT2, year, 5) for year in range(5)]
    assert len({study.digest for study in years}) == 5
    assert [one.planned for one in years[0].hospitals][:3] == [700, 260, 190]
    assert years[0].hospital("simulated-sepsis").declared_size == 3500
    assert sum(worth(study) for study in years) == pytest.approx(worth(SUPPORT2), rel=0.02)


@pytest.mark.parametrize("years", [1, 51])
def test_a_number_of_years_that_cannot_be(years: int) -> None:
    with pytest.raises(UsageError, match=f"years = {years}, limit 2 to 50"):
        study_of_a_year(SUPPORT2, 0, years)


def test_years_with_too_few_patients_are_refused() -> None:
    with pytest.raises(UsageError, match="fewer than 10 for each of 15 years"):
        study_of_a_year(HEART, 0, 15)


def test_large_studies_start_from_the_earlier_model_and_small_ones_anew() -> None:
    assert worth(study_of_a_year(SUPPORT2, 1, 5)) > LITTLE > worth(study_of_a_year(HEART, 1, 5))
    assert starts_from_earlier(study_of_a_year(SUPPORT2, 1, 5))
    assert not starts_from_earlier(study_of_a_year(HEART, 1, 5))


@pytest.mark.parametrize(
    ("study", "shares"),
    [(SUPPORT2, [2 / 3, 2 / 4, 2 / 5]), (HEART, [1 / 2, 1 / 3, 1 / 4])],
    ids=["large", "small"],
)
def test_equal_years_have_the_stated_shares(study: Study, shares: list[float]) -> None:
    one = study_of_a_year(study, 0, 5)
    earlier = EarlierModel(np.zeros(3), worth(one))
    for number, share in enumerate(shares, start=2):
        weights = combined(one, np.ones(3), earlier)
        assert weights - earlier.weights == pytest.approx(share * (1 - earlier.weights))
        earlier = EarlierModel(weights, number * worth(one))


@given(st.sampled_from([SUPPORT2, NETWORK]), st.integers(0, 2**32 - 1))
def test_a_model_on_whitened_inputs_scores_as_the_model_of_the_inputs(
    study: Study, seed: int
) -> None:
    chosen = np.random.default_rng(seed)
    weights = chosen.normal(size=parameter_count(study))
    width = second_moments.width(study)
    root = chosen.normal(size=(width, width))
    matrix = root @ root.T / width + 0.1 * np.eye(width)
    there = whitening.on_whitened(study, weights, matrix.ravel())
    back = whitening.of_inputs(study, there, matrix.ravel())
    assert back == pytest.approx(weights, rel=1e-6, abs=1e-6)
    inputs = chosen.normal(size=(5, width - 1))
    assert log_odds(study, back, inputs) == pytest.approx(log_odds(study, weights, inputs))


@pytest.mark.slow
def test_years_are_simulated_with_ledgers() -> None:
    """Every patient pays their life at most, and year 1 is the same for all but all at once."""
    study = HEART.with_epsilon(0.5)
    found = simulate(study, folds=2, years=3).document
    assert [one["year"] for one in found["years"]] == [1, 2, 3]
    first = found["years"][0]
    assert first["first_only"] == first["fresh"] == first["continued"]
    for one in found["years"]:
        assert set(one) == {"year", *WAYS, "standard_errors"}
        assert one["first_only"] == first["first_only"]
        assert one["all_at_once"] == pytest.approx(found["auc"])
        assert all(0 <= one[way] <= 1 for way in WAYS)
    assert 0.4 < found["life_epsilon"] <= 0.5
    assert "years" not in simulate(study, folds=2).document
