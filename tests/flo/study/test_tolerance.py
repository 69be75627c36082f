"""The threshold makes two lists impossible, and each level's noise is enough for the honest."""

from __future__ import annotations

from fractions import Fraction

import pytest

from flo.errors import StudyError
from flo.study.document import Study
from flo.study.tolerance import Tolerance, most_dropouts, usual_dropouts
from tests.builders import small_study

EVERY = [(n, b) for n in range(2, 61) for b in range(1, n) if most_dropouts(n, b) > 0]


@pytest.mark.parametrize(
    ("hospitals", "colluders", "most"),
    [(3, 1, 0), (4, 1, 1), (5, 1, 1), (6, 1, 2), (7, 2, 2), (10, 3, 3), (16, 5, 5), (50, 16, 16)],
)
def test_so_many_dropouts_can_be_survived(hospitals: int, colluders: int, most: int) -> None:
    assert most_dropouts(hospitals, colluders) == most
    assert usual_dropouts(hospitals) <= most


def test_two_sets_of_the_threshold_share_an_honest_hospital() -> None:
    for n, b in EVERY:
        assert 2 * Tolerance(n, b, 1).threshold - n > b


def test_the_honest_survivors_of_any_sum_have_added_all_of_its_noise() -> None:
    """And none of a level below would have been enough, unless levels are skipped."""
    for n, b in EVERY:
        tolerance = Tolerance(n, b, most_dropouts(n, b))
        for present in range(n - tolerance.dropouts, n + 1):
            level = tolerance.level(present)
            assert Fraction(present - b, tolerance.shares(level)) >= 1
            if level:
                assert Fraction(present - b, tolerance.shares(level - 1)) < 1


def test_levels_go_from_nobody_to_all_who_may_be_missing() -> None:
    for n, b in EVERY:
        levels = Tolerance(n, b, most_dropouts(n, b)).levels
        assert list(levels) == sorted(set(levels))
        assert (levels[0], levels[-1]) == (0, most_dropouts(n, b))
        assert len(levels) <= 4
    assert Tolerance(50, 16, 10).levels == (0, 2, 5, 10)


def test_more_missing_than_allowed_has_no_level() -> None:
    with pytest.raises(ValueError, match="2 hospitals are missing, at most 1 may be"):
        Tolerance(4, 1, 1).level(2)


@pytest.mark.parametrize("made", [(4, 1, 2), (3, 1, 1), (4, 4, 0), (4, -1, 0), (4, 1, -1)])
def test_a_tolerance_that_cannot_be_kept_is_refused(made: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="Tolerance"):
        Tolerance(*made)


# -- of a study -----------------------------------------------------------------------------------


def study(hospitals: int, version: int = 4, least: int = 2, **mechanism: object) -> Study:
    named = [{"id": f"site-{n}", "declared_size": 40} for n in range(hospitals)]
    limits = {"deadline_seconds": 10, "minimum_cohort": least}
    made = small_study(hospitals=named, schema_version=version, limits=limits)
    return made.with_mechanism(**{"noise": "distributed", "masking": "on", **mechanism})


def test_a_study_survives_as_many_dropouts_as_its_floor_allows() -> None:
    assert study(4).tolerance == Tolerance(4, 1, 1)
    assert study(10).tolerance == Tolerance(10, 3, 2)
    assert study(10, least=9).tolerance == Tolerance(10, 3, 1)
    assert study(10, dropouts=3).tolerance == Tolerance(10, 3, 3)


def test_older_studies_small_ones_and_local_noise_survive_none() -> None:
    for one in (study(4, 3), study(3), study(4, noise="local"), study(4, dropouts=0)):
        assert one.tolerance is None
    assert study(4, least=4).tolerance is None
    assert (study(128, least=100).tolerance is None, study(129, least=100).tolerance) == (
        False,
        None,
    )


def test_more_dropouts_than_can_be_survived_are_refused_by_number() -> None:
    with pytest.raises(StudyError, match="dropouts = 2, limit 1: sums of 5 hospitals"):
        study(5, dropouts=2)
    assert study(5, 3, dropouts=2).tolerance is None
