"""The release gate: its sums move by at most their norm, and its verdicts are those of the sums."""

from __future__ import annotations

import math
from dataclasses import replace
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
from flo.privacy.patients.patients import Patients
from flo.privacy.releases import gate, gate_decision
from flo.privacy.releases.asked_model import scorer
from flo.privacy.releases.calibration import Calibration
from flo.privacy.releases.gate_decision import Comparison, Verdict
from flo.published import gate_words
from flo.study.document import Study, from_document
from flo.study.gate import CURVE_POINTS
from flo.study.models import compared, log_odds, parameter_count, request_length
from tests.builders import small_study, study_document
from tests.privacy.releases.test_survey import Visit, patients_of, visits

CARDS = "ab" * 32, "cd" * 32
TWO_OUTPUTS = {
    **{"kind": "pack", "name": "two"},
    "layers": [{"kind": "Linear", "sizes": [1, 2]}],
}
CURVE = Calibration(
    log_odds=(-4.0, 0.0, 3.0),
    risk=(0.1, 0.3, 0.8),
    low=(0.05, 0.2, 0.7),
    high=(0.2, 0.4, 0.9),
    level=0.9,
)


def gated(*, many: bool = True, model: dict[str, Any] | None = None, **terms: Any) -> Study:
    data = study_document()["data"] | {"records_per_patient": "many" if many else "one"}
    data["columns"] = [
        *data["columns"],
        {**data["columns"][0], "name": "pressure", "maximum": 160},
    ]
    more = {"model": model} if model else {}
    return small_study(schema_version=4, data=data, gate={"epsilon": 0.5} | terms, **more)


def of_current(*columns: str, **form: Any) -> dict[str, Any]:
    model = {"card": CARDS[1], "name": "old", "version": 2, "columns": columns}
    return {"current": CARDS[1], "models": [model | {"model": {"kind": "logistic"}} | form]}


def comparing() -> Study:
    """A study that compares two published models."""
    new = {"card": CARDS[0], "name": "new", "version": 1, "columns": ["age"]}
    models = [new | {"model": {"kind": "logistic"}}, *of_current("age")["models"]]
    terms = {"epsilon": 0.5, "candidate": CARDS[0], "prevalence": 0.3}
    gate = of_current("age") | terms | {"models": models}
    document = study_document(schema_version=4, gate=gate)
    del document["model"], document["evaluation"]
    return from_document(
        document | {"mechanism": {"noise": "local", "masking": "off", "delta": 1e-6}}
    )


def asked_of(study: Study, seed: int = 0) -> Floats:
    generator = np.random.default_rng(seed)
    sizes = [n - 2 * CURVE_POINTS for n in lengths(study)]
    one, other = (generator.normal(size=size) for size in sizes)
    return np.asarray(gate.request(scorer(one, CURVE), scorer(other, None), 0.3))


def lengths(study: Study) -> list[int]:
    return [parameter_count(form) + 2 * CURVE_POINTS for form in compared(study)]


# -- what is summed --------------------------------------------------------------------------------


def test_a_patients_numbers_are_those_of_the_docstring() -> None:
    study = gated(**of_current("age"))
    asked = asked_of(study)
    patients = patients_of(study, [(75.0, 1, 100.0, 1.0, 0)])
    first = lengths(study)[0]
    candidate = log_odds(study, asked[: first - 2 * CURVE_POINTS], patients.inputs)
    risk, _, _ = CURVE.of(candidate)
    weight, bias = asked[first : first + 2]
    current = 1 / (1 + math.exp(-(0.5 * weight + bias)))  # age 75 of 0 to 100 is 0.5
    new, old, average = (float(one - 1) ** 2 for one in (risk[0], current, 0.3))
    x = min(1.0, max(-1.0, (old - new + 0.2 * (average - old)) / 0.3))
    large = (old - new < -0.4) - (old - new > 0.4)
    expected = [x, 0.35 * max(x * x, abs(large)), 1.3 * large, 0.25]
    assert gate.sums(study, asked, patients) == pytest.approx(expected, abs=1e-3)


def test_a_calibrated_model_is_judged_by_the_risks_that_its_card_states() -> None:
    study = gated()
    weights = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5])
    risks, _ = gate.scorers(
        study, gate.request(scorer(weights, CURVE), asked_of(study)[264:-1], 0.3)[:-1]
    )
    stated, _, _ = CURVE.of(np.array([0.5]))
    assert risks(np.zeros((1, 6))) == pytest.approx(stated, abs=1e-6)


def test_the_average_risk_is_stated_for_everybody() -> None:
    study = gated()
    average = gate.of_average(study, 0.3)
    asked = gate.request(scorer(np.zeros(7), None), average, 0.3)
    _, current = gate.scorers(study, asked[:-1])
    inputs = np.random.default_rng(1).normal(size=(5, 6))
    assert current(inputs) == pytest.approx(np.full(5, 0.3))


def test_a_current_model_with_the_same_columns_in_another_order_sees_its_own_inputs() -> None:
    study = gated(**of_current("pressure", "ward", "age"))
    weights = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 2.0, 0.0])  # of the age only
    asked = gate.request(asked_of(study)[: lengths(study)[0]], scorer(weights, None), 0.3)
    _, current = gate.scorers(study, asked[:-1])
    patients = patients_of(study, [(75.0, 1, 40.0, 1.0, 0)])
    assert current(patients.inputs) == pytest.approx([1 / (1 + math.exp(-2.0 * 0.5))])


def test_a_current_model_with_fewer_columns_in_another_order_sees_its_own_inputs() -> None:
    study = gated(**of_current("pressure", "age"))
    weights = np.array([2.0, -1.0, 0.25])
    asked = gate.request(asked_of(study)[: lengths(study)[0]], scorer(weights, None), 0.3)
    patients = patients_of(study, [(75.0, 1, 40.0, 1.0, 0)])
    _, current = gate.scorers(study, asked[:-1])
    odds = 2.0 * -0.5 - 1.0 * 0.5 + 0.25  # pressure 40 of 0 to 160, age 75 of 0 to 100
    assert current(patients.inputs) == pytest.approx([1 / (1 + math.exp(-odds))])


@given(visits, st.integers(0, 3), st.sampled_from([(), ("ward",)]), st.floats(-20, 20))
def test_one_patient_moves_the_sums_by_at_most_the_norm(
    drawn: list[Visit], seed: int, subgroups: tuple[str, ...], steepness: float
) -> None:
    study = gated(subgroups=subgroups)
    asked = steepness * asked_of(study, seed)
    removed = [visit for visit in drawn if visit[4] != drawn[0][4]]
    more, less = (gate.sums(study, asked, patients_of(study, one)) for one in (drawn, removed))
    assert np.linalg.norm(more - less) <= gate.NORM * (1 + 1e-9)


@given(visits, st.data())
def test_nothing_that_a_coordinator_asks_moves_them_further(
    drawn: list[Visit], data: st.DataObject
) -> None:
    study = gated(**of_current("age"))
    size = request_length(study, "gate")
    numbers = st.floats(allow_nan=True, allow_infinity=True)
    few = data.draw(st.lists(numbers, min_size=8, max_size=8))
    asked = np.resize(np.array(few), size)
    removed = [visit for visit in drawn if visit[4] != drawn[0][4]]
    with np.errstate(all="ignore"):
        more, less = (gate.sums(study, asked, patients_of(study, one)) for one in (drawn, removed))
    assert np.isfinite(more).all()
    assert np.linalg.norm(more - less) <= gate.NORM * (1 + 1e-9)


def test_another_patients_contribution_does_not_change_by_one_bit() -> None:
    """Interpolating all scores at once would round them by how many there are."""
    study = gated(many=False)
    asked = asked_of(study, 2)
    generator = np.random.default_rng(3)
    inputs = generator.normal(size=(300, 6))
    one, _ = gate.scorers(study, asked[:-1])
    whole = one(inputs)
    assert all(one(inputs[:n])[:5].tobytes() == whole[:5].tobytes() for n in (5, 129, 130, 299))


def test_it_is_charged_to_held_out_patients_only_and_by_its_own_norm() -> None:
    study = gated(subgroups=["ward"])
    part = Plan.of(study).purpose("gate")
    assert CHARGES["gate"] == ("evaluation",)
    assert isinstance(part.mechanism, FullBatchSum)
    assert part.mechanism.clip == gate.NORM
    assert part.mechanism.length == gate.length(study) == 4 * (1 + 4)  # three wards and missing
    assert part.releases == 1


def test_evaluation_and_gate_together_cost_what_their_composition_costs() -> None:
    alone, both = small_study(schema_version=4), gated()
    assert Plan.of(both).epsilon > Plan.of(alone).epsilon
    fair = replace_epsilon(both, 0.7)
    assert Plan.of(fair).epsilon < 0.9001


def replace_epsilon(study: Study, evaluation: float) -> Study:
    document = study.model_dump(mode="json")
    document["evaluation"]["epsilon"] = evaluation
    return from_document(document)


# -- what it means ---------------------------------------------------------------------------------


def read(study: Study, *values: tuple[float, float, float, float], noise: float) -> Comparison:
    """Read sums of these values, whose noise has this deviation in S; the noise itself is 0."""
    scales = gate.scales_of(study)
    of_each = [scales[column] for column, codes in gate.groupings(study).items() for _ in codes]
    noisy = np.concatenate([np.array(v) * s for v, s in zip(values, of_each, strict=True)])
    return gate_decision.read(study, noisy, (noise * of_each[0][0]) ** 2)


CURRENT = of_current("age")


@pytest.mark.parametrize(
    ("s", "large", "verdict"),
    [
        (60.0, 0.0, "pass"),
        (60.0, -40.0, "pass"),
        (20.0, 0.0, "cannot tell"),
        (-20.0, 0.0, "cannot tell"),
        (-60.0, 0.0, "fail"),
        (60.0, 49.5, "cannot tell"),  # as many large losses as there may be
        (60.0, 120.0, "fail"),
    ],
)
def test_a_candidate_passes_fails_or_cannot_be_told(
    s: float, large: float, verdict: Verdict
) -> None:
    found = read(gated(many=False, **CURRENT), (s, 130.0, large, 1800.0), noise=13.0)
    assert found.verdict == verdict
    assert found.losses is not None
    assert (found.kept.low > 0) == (found.kept.verdict == "pass")
    assert found.kept.high < 0 or found.kept.verdict != "fail"
    assert found.losses.low > 0.0275 or found.losses.verdict != "fail"


def test_against_the_average_risk_every_loss_counts_in_full_and_none_is_large() -> None:
    study = gated(many=False)
    assert gate.clip_of(study) == 1.0
    found = read(study, (80.0, 60.0, 900.0, 1800.0), noise=13.0)
    assert (found.verdict, found.losses) == ("pass", None)


def test_the_clip_is_as_large_as_the_planned_patients_allow() -> None:
    few = gated(many=False, **CURRENT)
    document = few.model_dump(mode="json")
    for hospital in document["hospitals"]:
        hospital["declared_size"] = 7000
    assert gate.clip_of(few) == 0.3
    assert gate.clip_of(from_document(document)) == 0.4
    assert gate.clip_of(gated(many=False, clip=0.2, **CURRENT)) == 0.2


def test_a_candidate_whose_risks_were_fitted_on_the_same_patients_needs_more() -> None:
    sums = (32.0, 130.0, 0.0, 1800.0)
    assert read(comparing(), sums, noise=13.0).verdict == "pass"
    assert read(gated(many=False, **CURRENT), sums, noise=13.0).verdict == "cannot tell"


def test_a_subgroup_that_is_clearly_worse_fails_a_candidate_that_is_better_for_the_rest() -> None:
    study = gated(many=False, subgroups=["ward"], **CURRENT)
    others = (60.0, 40.0, 0.0, 600.0)
    worse = (-180.0, 130.0, 0.0, 600.0)
    found = read(study, (200.0, 300.0, 0.0, 1800.0), others, worse, others, others, noise=13.0)
    assert found.losses is not None
    assert found.kept.verdict == found.losses.verdict == "pass"
    assert found.verdict == "fail"
    assert found.subgroups["ward=b"].verdict == "fail"
    assert list(found.subgroups) == ["ward=a", "ward=b", "ward=c", "ward=missing"]


@pytest.mark.parametrize("terms", [{"attempts": 10}, {"retry_allowance": 9}], ids=str)
def test_more_attempts_and_retries_need_more_evidence(terms: dict[str, Any]) -> None:
    """A retry is another draw."""
    sums = (40.0, 130.0, 0.0, 1800.0)
    assert read(gated(many=False, **CURRENT), sums, noise=13.0).verdict == "pass"
    found = read(gated(many=False, **CURRENT, **terms), sums, noise=13.0)
    assert found.verdict == "cannot tell"
    assert found.level == pytest.approx(0.99)


@pytest.mark.parametrize("patients", [20.0, 0.0, -300.0, -5.0])
def test_with_hardly_any_patients_it_says_no_figure_and_nothing_else(patients: float) -> None:
    found = read(gated(many=False, **CURRENT), (80.0, 2.0, 90.0, patients), noise=13.0)
    assert found.verdict == "cannot tell"
    assert (found.kept.low, found.kept.high) == (-1.0, 1.0)
    said = dict(gate_words.rows(gated(many=False, **CURRENT), found))
    assert said["Brier score"] == "patients are too few for any figure: cannot tell"
    assert "too few for any figure" in said["large losses"]


@given(st.floats(-2e3, 2e3), st.floats(-2e3, 2e3), st.floats(-2e3, 2e3), st.floats(-2e3, 2e3))
def test_any_sums_are_read_and_put_into_words(s: float, q: float, h: float, n: float) -> None:
    study = gated(many=False, **CURRENT)
    found = read(study, (s, q, h, n), noise=13.0)
    assert found.kept.verdict != "fail" or found.kept.high < 0
    assert found.kept.verdict != "pass" or found.kept.low > 0
    assert len(gate_words.rows(study, found)) == 6


# -- terms -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        ({"clip": 0.5} | of_current("age"), "limit large_loss = 0.4"),
        ({"epsilon": 1.1}, "epsilon"),
        (
            {"candidate": CARDS[0], "current": CARDS[1]},
            "a gate of two published models needs prevalence",
        ),
        ({"candidate": CARDS[0]}, "candidate needs a current model"),
        ({"candidate": CARDS[0], "current": CARDS[0]}, "are the same model"),
        ({"subgroups": ["ward", "ward"]}, "appears twice"),
        ({"subgroups": ["age"]}, "'age' is not a category column"),
        (of_current("age", "age"), "a column of old, version 2 appears twice"),
        (of_current("age", model={"kind": "cnn"}), "a cnn needs an image column"),
        (of_current("age", model=TWO_OUTPUTS), r"output has shape \(2,\)"),
        (of_current("height"), "has no column 'height' of old, version 2"),
        ({"current": CARDS[0], "models": of_current("age")["models"]}, "in this order"),
    ],
)
def test_terms_that_contradict_each_other_are_refused(terms: dict[str, Any], said: str) -> None:
    with pytest.raises(StudyError, match=said):
        gated(**terms)


def test_a_gate_needs_a_study_of_the_latest_schema() -> None:
    with pytest.raises(StudyError, match="only in a study of schema_version = 4"):
        small_study(schema_version=3, gate={"epsilon": 0.5})


def test_a_gate_of_two_published_models_trains_nothing_and_says_nothing_of_training() -> None:
    study = comparing()
    assert study.purposes == ("gate",)
    assert not study.trains
    assert Plan.of(study).releases == {"gate": 1}
    assert Plan.of(study).epsilon == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize(
    "terms",
    [
        *({"epsilon": 0.4}, {"keeps": 1.0}, {"clip": 0.1}, {"large_loss": 0.5}),
        *({"most_large_losses": 0.02}, {"prevalence": 0.2}),
        *({"subgroups": ["ward"]}, {"attempts": 2}, {"retry_allowance": 1}),
        *(of_current("age"), of_current("age", version=3), of_current("ward")),
    ],
    ids=str,
)
def test_every_term_is_part_of_what_stewards_approve(terms: dict[str, Any]) -> None:
    assert gated(**terms).digest != gated().digest
    assert gated(**terms).digest != gated(**of_current("age", name="older")).digest


def test_models_that_are_not_known_yet_cannot_be_asked() -> None:
    study = gated(current=CARDS[1])
    with pytest.raises(StudyError, match="not known yet"):
        request_length(study, "gate")


def test_a_label_that_is_neither_0_nor_1_counts_nowhere() -> None:
    study = gated(many=False)
    patients = patients_of(study, [(75.0, 1, 100.0, 1.0, 0), (20.0, 0, 30.0, 0.0, 1)])
    spoilt = replace(patients, labels=np.array([1.0, np.nan]))
    asked = asked_of(study)
    one = Patients(patients.inputs[:1], patients.labels[:1], patients.patient[:1], 1)
    assert gate.sums(study, asked, spoilt) == pytest.approx(gate.sums(study, asked, one))
