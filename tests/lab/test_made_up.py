"""Made-up patients of each outcome are as their world says, and the same on every machine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flo.arrays import Floats
from flo.lab.advice import candidates
from flo.lab.comparison import pooled
from flo.lab.folds import Fold
from flo.lab.made_up import World, in_these_worlds, made_up, share_of, worlds
from flo.study import usual
from flo.study.document import Study, from_document
from tests.builders import study_document
from tests.flo.class_studies import CLASSES
from tests.flo.quantities import COUNT, NUMBER
from tests.flo.times import OUTCOME

OUTCOMES: dict[str, dict[str, Any] | None] = {
    **{"yes or no": None, "times": OUTCOME, "count": COUNT, "number": NUMBER, "classes": CLASSES}
}
each_outcome = pytest.mark.parametrize("name", OUTCOMES)
each_other = pytest.mark.parametrize("name", ["times", "count", "classes"])


def study_of(name: str, size: int, epsilon: float = 0.9) -> Study:
    """A study as ``flo study new`` would draft it."""
    document = study_document(schema_version=4)
    if OUTCOMES[name]:
        document["data"]["outcome"] = OUTCOMES[name]
    document["hospitals"] = [
        {"id": hospital, "declared_size": size} for hospital in ("north", "south", "west")
    ]
    study = from_document(document)
    settings = usual.whitened(3 * size, epsilon, study.data.outcome)
    return study.with_mechanism(
        **settings, epsilon=epsilon, noise="distributed", masking="on", sampling=1.0
    )


def everyone(fold: Fold) -> Floats:
    return np.concatenate([one.held_out.labels for one in fold.snapshots.values()])


@each_outcome
def test_the_outcome_is_as_frequent_as_the_world_says(name: str) -> None:
    study = study_of(name, 2000)
    outcome = study.data.outcome
    for world in worlds(outcome):
        codes = everyone(made_up(study, 1, world))
        if study.data.times:
            found = study.data.times.observed(codes)[-1]
        elif study.data.quantity:
            found = codes.mean() / (study.data.quantity.codes - 1)
        elif study.data.classes:
            shares = np.bincount(codes.astype(int)) / len(codes)
            assert shares.min() == pytest.approx(world.share, abs=0.08)
            continue
        else:
            found = codes.mean()
        assert found == pytest.approx(world.share, abs=0.03), world


@each_outcome
def test_a_stronger_world_is_easier_to_rank(name: str) -> None:
    study = study_of(name, 2000)
    share = worlds(study.data.outcome)[0].share
    weak, strong = (
        pooled(study, made_up(study, 1, World(share, strength))).auc for strength in (0.2, 1.0)
    )
    assert 0.52 < weak < strong - 0.1


@each_outcome
def test_they_are_the_same_each_time_and_other_patients_for_each_hospital(name: str) -> None:
    study = study_of(name, 300)
    world = worlds(study.data.outcome)[0]
    first, again, other = (made_up(study, law, world) for law in (1, 1, 2))
    assert np.array_equal(everyone(first), everyone(again))
    north, again_north, other_north, south = (
        fold.snapshots[hospital].training
        for fold, hospital in (
            (first, "north"),
            (again, "north"),
            (other, "north"),
            (first, "south"),
        )
    )
    assert np.array_equal(north.inputs, again_north.inputs)
    assert not np.array_equal(
        np.column_stack([north.inputs, north.labels]),
        np.column_stack([other_north.inputs, other_north.labels]),
    )
    assert not np.array_equal(north.inputs, south.inputs)
    assert north.count == 210, "what is not held out"


def test_a_fifth_is_lost_before_the_last_horizon_or_has_the_event_first() -> None:
    study = study_of("times", 3000)
    codes = everyone(made_up(study, 1, World(0.02, 0.35)))
    times = study.data.times
    assert times is not None
    lost = (codes % 2 == 0) & (codes < times.codes - 1)
    assert lost.mean() == pytest.approx(0.2, abs=0.02)


@each_outcome
def test_a_world_is_described_in_the_words_of_the_outcome(name: str) -> None:
    outcome = study_of(name, 300).data.outcome
    said = {
        "yes or no": ("with the label", "one patient in ten or more has the label"),
        "times": ("with the event", "25% to 50% of the patients have the event"),
        "count": ("of the steps on average", "values reach 20% to 50% of the steps on average"),
        "number": ("of the steps on average", "values reach 20% to 50% of the steps on average"),
        "classes": (
            "in the smallest class",
            "the smallest class has 17% of the patients or more",
        ),
    }
    assert (share_of(outcome), in_these_worlds(outcome)) == said[name]


@pytest.mark.slow  # 10 s each: 15 models are trained
@each_other
def test_a_large_study_of_another_outcome_is_not_advised_against(name: str) -> None:
    (way,) = candidates(study_of(name, 6000))
    assert way.advised is not False
    assert way.lost < way.limit
    assert len({trial.share for trial in way.trials}) >= 2


@pytest.mark.slow  # 7 s
def test_a_study_of_classes_that_has_few_patients_is_advised_against() -> None:
    (way,) = candidates(study_of("classes", 40, epsilon=0.1))
    assert way.advised is False
    assert way.lost > 0.06
