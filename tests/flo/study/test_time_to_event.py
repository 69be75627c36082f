"""The time to an event: what a record's code means, and which studies may have such an outcome."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flo.errors import StudyError
from flo.study.document import from_document
from flo.study.models import initial_weights
from flo.study.time_to_event import TimeToEvent
from tests.builders import WHITENED, study_document
from tests.flo.quantities import quantity_document
from tests.flo.times import OUTCOME, times_document

THREE = TimeToEvent(**OUTCOME | {"horizons": (30, 180, 730)})


@pytest.mark.parametrize(
    ("time", "event", "code"),
    [
        (0, 1, 1),
        (0, 0, 0),
        (29.9, 1, 1),
        (29.9, 0, 0),
        (30, 1, 1),  # an event at a horizon belongs to the period before it
        (30, 0, 2),  # and who was last seen at one was followed until then
        (31, 1, 3),
        (180, 1, 3),
        (730, 1, 5),
        (730, 0, 6),
        (731, 1, 6),  # what happens later is not used
        (9e8, 0, 6),
    ],
)
def test_a_time_has_one_code(time: float, event: int, code: int) -> None:
    assert THREE.coded(np.array([float(time)]), np.array([float(event)])).tolist() == [code]


@given(st.lists(st.tuples(st.floats(0, 1000), st.sampled_from([0.0, 1.0])), min_size=1))
def test_a_code_says_how_long_somebody_was_followed(drawn: list[tuple[float, float]]) -> None:
    times, events = (np.array(one) for one in zip(*drawn, strict=True))
    codes = THREE.coded(times, events).astype(int)
    assert (THREE.had_event[codes] <= events).all(), "no event is made up"
    through = np.searchsorted(THREE.horizons, times, side="right")
    assert (np.floor(THREE.followed[codes]) <= through + THREE.had_event[codes]).all()
    assert (THREE.followed[codes] >= np.minimum(through, 3) - (times == 30)).all()


def test_the_observed_risk_is_the_life_tables() -> None:
    """100 patients: 10 have the event in the first period, 20 leave within it, 35 in the second."""
    codes = np.repeat([1.0, 0.0, 3.0, 6.0], [10, 20, 35, 35])
    first = 10 / (80 + 20 / 2)
    assert THREE.observed(codes) == pytest.approx([first, 1 - (1 - first) / 2, 1 - (1 - first) / 2])


def test_training_starts_at_the_hazard_that_is_expected() -> None:
    study = from_document(times_document())
    outcome = study.data.times
    assert outcome is not None
    hazard = 1 / (1 + np.exp(-initial_weights(study)[-1]))
    assert 1 - (1 - hazard) ** outcome.periods == pytest.approx(outcome.expected)
    assert (initial_weights(study)[:-1] == 0).all()
    assert outcome.planned.sum() == pytest.approx(1)
    assert outcome.planned[1::2].sum() == pytest.approx(outcome.expected)


def test_an_outcome_is_part_of_a_study_and_older_ones_keep_their_digests() -> None:
    plain = from_document(study_document(schema_version=4))
    assert b"outcome" not in plain.canonical_bytes
    digests = {plain.digest, from_document(times_document()).digest}
    for change in (
        {"horizons": [10, 20]},
        {"horizons": [10]},
        {"unit": "months"},
        {"time": "weeks"},
        {"expected": 0.4},
    ):
        digests.add(from_document(times_document(**change)).digest)
    assert len(digests) == 7


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"horizons": []}, "at least 1 item"),
        ({"horizons": [20, 10]}, "horizons must rise"),
        ({"horizons": [10, 10]}, "horizons must rise"),
        ({"horizons": [0, 10]}, "greater than 0"),
        ({"horizons": list(range(1, 10))}, "at most 8 items"),
        ({"expected": 0}, "greater than or equal to 0.01"),
        ({"expected": 1}, "less than or equal to 0.95"),
        ({"kind": "competing-risks"}, "any of the expected tags: 'time-to-event'"),
        ({"time": "age"}, "the outcome's time 'age' is also the label or an input column"),
        ({"time": "ill"}, "the outcome's time 'ill' is also the label or an input column"),
    ],
)
def test_an_outcome_that_cannot_be(change: dict[str, Any], why: str) -> None:
    with pytest.raises(StudyError, match=re.escape(why)):
        from_document(times_document(**change))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"schema_version": 3}, "outcome: only in a study of schema_version = 4"),
        ({"gate": {"epsilon": 0.5}}, "has no [gate]"),
        ({"continues": {"models": ["ab" * 32]}}, "has no [continues]"),
        (
            {
                "statistics": {
                    "epsilon": 0.5,
                    "parts": [{"kind": "table", "name": "t", "columns": ["age"]}],
                },
                "mechanism": {"noise": "local", "masking": "off", "delta": 1e-6},
            },
            "has no [statistics]",
        ),
    ],
)
def test_what_knows_only_yes_and_no_refuses_an_outcome(changes: dict[str, Any], why: str) -> None:
    for document in (times_document(), quantity_document()):
        with pytest.raises(StudyError, match=re.escape(why)):
            from_document(document | changes)


def test_least_squares_knows_only_yes_and_no() -> None:
    document = times_document()
    document["mechanism"] |= {"algorithm": "least-squares", "steps": 1}
    for name in ("learning_rate", "momentum"):
        del document["mechanism"][name]
    with pytest.raises(StudyError, match=r"algorithm = .whitened."):
        from_document(document)


def test_a_patient_has_one_time() -> None:
    document = times_document()
    document["data"]["records_per_patient"] = "many"
    with pytest.raises(StudyError, match="each patient has one time"):
        from_document(document)


def test_a_time_whose_name_tells_who_a_patient_is() -> None:
    with pytest.raises(StudyError, match="the outcome's column 'date of birth'"):
        from_document(times_document(time="date of birth")).refuse_identifying()


def test_networks_start_at_the_expected_hazard_too() -> None:
    document = times_document()
    document["model"] = {"kind": "mlp", "hidden": [4]}
    document["mechanism"] |= WHITENED
    study = from_document(document)
    assert study.data.times is not None
    assert initial_weights(study)[-1] == pytest.approx(study.data.times.first_log_odds)
