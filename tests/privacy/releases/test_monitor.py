"""A period of a monitor: its sums move by at most their norm, whatever model is asked."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flo.arrays import Floats
from flo.errors import StudyError
from flo.privacy.accounting.life_budget import CHARGES
from flo.privacy.accounting.plan import Plan
from flo.privacy.mechanisms.mechanisms import FullBatchSum
from flo.privacy.releases import monitor
from flo.privacy.releases.asked_model import scorer
from flo.study.document import Study, from_document
from flo.study.models import log_odds, request_length, request_precision, watched
from tests.builders import small_study, study_document
from tests.privacy.releases.test_gate import CURVE
from tests.privacy.releases.test_survey import Visit, patients_of, visits

CARD = "ab" * 32


def watching(*, many: bool = True, columns: tuple[str, ...] = ("age",), **terms: Any) -> Study:
    data = study_document()["data"] | {"records_per_patient": "many" if many else "one"}
    data["columns"] = [
        *data["columns"],
        {**data["columns"][0], "name": "pressure", "maximum": 160},
    ]
    model = {"card": CARD, "name": "old", "version": 2, "columns": columns}
    asked = {"epsilon": 0.5, "model": CARD, "models": [model | {"model": {"kind": "logistic"}}]}
    document = study_document(schema_version=4, data=data, monitor=asked | terms)
    del document["model"], document["evaluation"]
    return from_document(
        document | {"mechanism": {"noise": "local", "masking": "off", "delta": 1e-6}}
    )


def asked_of(study: Study, seed: int = 0) -> Floats:
    """Of numbers that no honest coordinator would send, too."""
    generator = np.random.default_rng(seed)
    asked: Floats = np.asarray(scorer(generator.normal(size=2), CURVE if seed % 2 else None))
    if seed % 5 == 4:
        wild = generator.choice([np.nan, np.inf, -np.inf, 1e38, -1e38], size=len(asked))
        asked = np.where(generator.random(len(asked)) < 0.3, wild, asked)
    assert len(asked) == request_length(study, "monitor")
    return asked


def test_a_patients_numbers_are_those_of_the_docstring() -> None:
    study = watching()
    asked = scorer(np.array([2.0, -1.0]), None)
    sums = monitor.sums(study, asked, patients_of(study, [(75.0, 1, 100.0, 1.0, 0)]))
    stated = 1 / (1 + math.exp(-(2.0 * 0.5 - 1.0)))  # age 75 of 0 to 100 is 0.5
    assert sums == pytest.approx([1 - stated, 3.33 * stated * (1 - stated)], abs=1e-3)


def test_stated_risks_are_those_of_the_models_card() -> None:
    study = watching(many=False)
    weights, patients = np.array([1.5, 0.25]), patients_of(study, [(30.0, 0, 100.0, 0.0, 0)])
    risk, _, _ = CURVE.of(log_odds(watched(study), weights, patients.inputs[:, :1]))
    more, _ = monitor.sums(study, scorer(weights, CURVE), patients)
    assert -more == pytest.approx(float(risk[0]), abs=1e-3)


@given(st.floats(0, 1), st.sampled_from([0.0, 1.0]))
def test_no_patients_vector_is_longer_than_the_norm(p: float, label: float) -> None:
    assert math.hypot(label - p, monitor.OF_VARIANCE * p * (1 - p)) <= monitor.NORM


def test_the_second_sum_is_as_large_as_the_norm_lets_it_be() -> None:
    golden = (1 + math.sqrt(5)) / 2
    p = 2 - golden
    assert monitor.OF_VARIANCE**2 <= (2 - p) / (p * (1 - p) ** 2) == pytest.approx(golden**5)
    assert golden**5 < (monitor.OF_VARIANCE + 0.002) ** 2


@given(visits, st.integers(0, 9), st.lists(st.integers(0, 3), min_size=1, max_size=3))
def test_a_patient_moves_the_sums_by_at_most_the_norm(
    visits: list[Visit], seed: int, records: list[int]
) -> None:
    """With as many records as they like, and whatever model is asked."""
    study = watching()
    asked = asked_of(study, seed)
    one = [(30.0 * k, k, 90.0, float(k % 2), 99) for k in records]
    with np.errstate(all="ignore"):
        without = monitor.sums(study, asked, patients_of(study, visits))
        with_them = monitor.sums(study, asked, patients_of(study, [*visits, *one]))
    assert np.isfinite(with_them).all()
    assert np.linalg.norm(with_them - without) <= monitor.NORM + 1e-9


def test_hospitals_pay_for_two_numbers_about_held_out_patients() -> None:
    study = watching()
    assert study.purposes == ("monitor",)
    assert not study.trains
    assert CHARGES["monitor"] == ("evaluation",)
    part = Plan.of(study).purpose("monitor")
    assert isinstance(part.mechanism, FullBatchSum)
    assert (part.mechanism.length, part.releases) == (2, 1)
    assert part.mechanism.norm == monitor.NORM
    assert Plan.of(study).epsilon == pytest.approx(0.5, abs=1e-4)
    assert Plan.of(study).cost("training", 8) == 0
    assert request_precision(study, "monitor") == np.float64


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"monitor": {"tolerance": 0.9}}, "tolerance"),
        ({"monitor": {"false_alarm_periods": 2}}, "false_alarm_periods"),
        ({"monitor": {"earlier": ["cd" * 32, "cd" * 32]}}, "a period appears twice"),
        ({"monitor": {"model": "cd" * 32}}, "not the model that is watched"),
        ({"gate": {"epsilon": 0.5}}, "monitor: only in a study of schema_version = 4, without"),
        ({"continues": {"models": ["cd" * 32]}}, "trains none to continue"),
    ],
    ids=["tolerance", "alarm", "twice", "another model", "gate", "continues"],
)
def test_terms_that_contradict_each_other_are_refused(changes: dict[str, Any], said: str) -> None:
    document = watching().model_dump(mode="json")
    for name, value in changes.items():
        document[name] = {**(document[name] or {}), **value}
    del document["evaluation"]["bins"]
    with pytest.raises(StudyError, match=said):
        from_document(document)


def test_a_model_of_a_column_that_the_study_lacks_is_refused() -> None:
    with pytest.raises(StudyError, match="no column 'height' of old, version 2"):
        watching(columns=("height",))


def test_a_study_that_is_not_signed_yet_cannot_be_asked() -> None:
    with pytest.raises(StudyError, match="not known yet") as refusal:
        watched(watching(models=[]))
    assert "when it signs the study" in refusal.value.hint


def test_a_monitor_is_left_out_of_other_studies_documents() -> None:
    assert b"monitor" not in small_study(schema_version=4).canonical_bytes
