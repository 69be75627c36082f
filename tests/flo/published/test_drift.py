"""Whether two models differ by more than the noise that their cards state."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flo.errors import StudyError, UsageError
from flo.privacy.releases import model_noise
from flo.published.drift import drift
from flo.published.model_card import PublishedModel
from flo.study.models import parameter_count
from flo.study.parameters import Vector
from tests.builders import small_study, study_document
from tests.flo.published_models import STUDIES, made

STUDY = STUDIES["gated"]
P = parameter_count(STUDY)
NOISE = np.diag(np.full(P, 0.04))


def with_noise(weights: Vector | None = None) -> PublishedModel:
    model = made("gated").open()
    noise = tuple(model_noise.packed(NOISE).tolist())
    changed = replace(model, card=model.card.model_copy(update={"noise": noise}))
    return changed if weights is None else replace(changed, weights=weights)


@pytest.mark.slow
def test_models_that_differ_by_noise_are_within_the_limit() -> None:
    """The ratio is about 1, and hardly ever beyond the limit."""
    current, generator = with_noise(), np.random.default_rng(3)
    found = [
        drift(with_noise(current.weights + generator.normal(0, 0.2 * 2**0.5, P)), current)
        for _ in range(300)
    ]
    assert 0.85 < np.mean([one.ratio for one in found]) < 1.1
    assert not any(one.is_beyond_noise for one in found)
    ranked = sorted(one.ratio for one in found)
    assert ranked[-3] > 0.6 * found[0].limit, "and the limit is no wider than it must be"


def test_a_model_that_differs_by_more_is_beyond_it_and_the_cases_say_where() -> None:
    current = with_noise()
    other = current.weights.copy()
    other[0] += 5.0
    found = drift(with_noise(other), current)
    assert found.is_beyond_noise
    assert {one.case for one in found.largest} & {"age at its minimum", "age at its maximum"}
    assert max(abs(one.value) for one in found.largest) == pytest.approx(5.0, abs=0.5)


def test_a_model_that_is_not_finite_is_beyond_it() -> None:
    broken = with_noise(np.full(P, np.nan))
    assert drift(broken, with_noise()).is_beyond_noise


def test_without_stated_noise_nothing_can_be_compared() -> None:
    with pytest.raises(UsageError, match="states no noise"):
        drift(with_noise(), made("gated").open())


def test_columns_of_two_meanings_cannot_be_compared() -> None:
    document = study_document()["data"]
    document["columns"][0]["maximum"] = 120
    model = with_noise()
    other = replace(model, study=small_study(data=document))
    with pytest.raises(StudyError, match="two meanings of column 'age'"):
        drift(other, model)
