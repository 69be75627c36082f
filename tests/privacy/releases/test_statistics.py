"""Statistics: one sum of counts and moments, which a patient moves by at most one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flo.arrays import Floats
from flo.clients.data_process.trainer import Trainer, private_step
from flo.clients.records.snapshot import Snapshot
from flo.errors import StudyError
from flo.privacy.accounting.life_budget import CHARGES, SUB_LEDGERS
from flo.privacy.accounting.plan import Plan
from flo.privacy.mechanisms.mechanisms import FullBatchSum
from flo.privacy.patients.patients import Patients
from flo.privacy.releases import statistics
from flo.privacy.releases.statistics import Block
from flo.study.document import Study, from_document
from tests.builders import NoNoise, small_study
from tests.privacy.releases.test_survey import Visit, patients_of, planned, visits

TABLE = {"kind": "table", "name": "one", "columns": ["pressure", "age", "ward"], "bins": 4}
BY = {"kind": "table", "name": "by", "columns": ["age", "ill"], "by": "ward", "bins": 2}
CURVE = {"kind": "survival", "name": "time", "time": "age", "event": "ill", "edges": [25, 50, 75]}
PARTS: list[list[dict[str, Any]]] = [[TABLE], [BY], [TABLE | {"share": 3}, BY]]
CURVES: list[list[dict[str, Any]]] = [[CURVE], [CURVE | {"by": "ward"}, BY | {"share": 0.1}, TABLE]]


def asking(*parts: dict[str, Any], many: bool = True, **more: Any) -> Study:
    document = planned(schema_version=4).model_dump(mode="json")
    document["evaluation"].pop("bins")
    document["data"]["records_per_patient"] = "many" if many else "one"
    statistics_ = {"epsilon": 0.5, "parts": list(parts), **more}
    return from_document(document | {"statistics": statistics_})


def exact(study: Study, drawn: list[Visit]) -> Floats:
    return statistics.exact(study, patients_of(study, drawn))


def units(study: Study, drawn: list[Visit]) -> list[Floats]:
    """The exact blocks, in patients."""
    found = exact(study, drawn)
    return [statistics.in_units(study, block, found) for block in blocks(study)]


def blocks(study: Study) -> list[Block]:
    return [block for block in statistics.layout(study) if isinstance(block, Block)]


one_visit_each = visits.map(lambda drawn: list({visit[4]: visit for visit in drawn}.values()))


# -- what is counted -------------------------------------------------------------------------------


def test_patients_are_in_the_cells_that_a_statistician_would_name() -> None:
    drawn = [
        (10.0, 0, 90.0, 1.0, 0),
        (100.0, 1, math.nan, 0.0, 1),
        (60.0, 2, 160.0, 0.0, 2),
        (30.0, 2, 120.0, 0.0, 3),
    ]
    study = asking(TABLE, BY, CURVE, many=False)
    table, by, curve = units(study, drawn)
    (row,) = table
    # pressure: 4 bins, missing, x and x² of (90, 160, 120) scaled to (-.75, 1, 0)
    assert row[:5] == pytest.approx([1, 0, 1, 1, 1])
    assert row[5:7] == pytest.approx(np.array([0.25, 1.5625]) * math.sqrt(0.5))
    assert row[7:11] == pytest.approx([1, 1, 1, 1])  # age
    assert row[11:13] == pytest.approx(np.array([0.0, 0.8**2 + 1 + 0.2**2 + 0.4**2]) * 0.5**0.5)
    assert row[13:] == pytest.approx([1, 1, 2, 0])  # ward, and where it is missing
    assert by.shape == (4, 2 + 2 + 2)
    assert by[0] == pytest.approx([1, 0, *(np.array([-0.8, 0.64]) * 0.5**0.5), 0, 1])
    # events by (25, 50, 75], censored by the same, and who was there after 75
    assert curve[0] == pytest.approx([1, 0, 0, 0, 1, 1, 1])


def test_an_event_at_an_edge_is_before_it_and_who_was_last_seen_there_lived_until_it() -> None:
    times = [25.0, math.nextafter(25, 26), 50.0, 75.0, math.nextafter(75, 76)]
    for event, expected in ((1.0, [1, 2, 1, 0, 0, 0, 1]), (0.0, [0, 0, 0, 0, 2, 1, 2])):
        drawn = [(time, 0, 90.0, event, who) for who, time in enumerate(times)]
        (found,) = units(asking(CURVE, many=False), drawn)
        assert found[0] == pytest.approx(expected)


def test_a_patients_visits_share_their_weight() -> None:
    drawn = [(10.0, 0, 90.0, 0.0, 7), (10.0, 0, 150.0, 1.0, 7), (60.0, 2, 90.0, 1.0, 8)]
    ((row,), by) = units(asking(TABLE, BY), drawn)
    assert row[:5] == pytest.approx([1.5, 0, 0, 0.5, 0])
    assert by[0, -2:] == pytest.approx([0.5, 0.5])


@given(st.sampled_from(PARTS), visits)
def test_every_columns_cells_add_up_to_the_number_of_patients(
    parts: list[dict[str, Any]], drawn: list[Visit]
) -> None:
    study = asking(*parts)
    patients = len({visit[4] for visit in drawn})
    for block, values in zip(blocks(study), units(study, drawn), strict=True):
        for column in block.columns:
            cells = values[:, column.start : column.start + len(column.cells)]
            assert cells.sum() == pytest.approx(patients, abs=1e-9)


# -- sensitivity -----------------------------------------------------------------------------------


@given(st.sampled_from(PARTS), visits.filter(bool), st.data())
def test_one_patient_moves_the_whole_vector_by_at_most_one(
    parts: list[dict[str, Any]], drawn: list[Visit], data: st.DataObject
) -> None:
    study = asking(*parts)
    gone = data.draw(st.sampled_from(sorted({visit[4] for visit in drawn})))
    moved = exact(study, drawn) - exact(study, [v for v in drawn if v[4] != gone])
    assert np.linalg.norm(moved) <= statistics.NORM + 1e-9


@given(st.sampled_from(CURVES), one_visit_each.filter(bool), st.data())
def test_one_patient_moves_a_curve_by_at_most_one(
    parts: list[dict[str, Any]], drawn: list[Visit], data: st.DataObject
) -> None:
    study = asking(*parts, many=False)
    gone = data.draw(st.sampled_from(sorted({visit[4] for visit in drawn})))
    moved = exact(study, drawn) - exact(study, [v for v in drawn if v[4] != gone])
    assert np.linalg.norm(moved) <= statistics.NORM + 1e-9


@given(st.lists(st.floats(width=64), min_size=9, max_size=9), st.sampled_from([0.0, 1.0, math.nan]))
def test_no_inputs_of_a_patient_whatever_they_are_exceed_it(
    inputs: list[float], label: float
) -> None:
    """Also what no data check would let pass: infinite, not a number, far beyond the bounds."""
    study = asking(TABLE, BY, CURVE, many=False)
    width = patients_of(study, [(10.0, 0, 90.0, 1.0, 0)]).inputs.shape[1]
    values = np.resize(np.array(inputs), (1, width))
    patient = Patients(values, np.array([label]), np.zeros(1, dtype=np.int64), 1)
    found = statistics.exact(study, patient)
    assert np.isfinite(found).all()
    assert np.linalg.norm(found) <= statistics.NORM + 1e-9


def test_the_bound_is_reached_so_no_noise_is_wasted() -> None:
    study = asking(TABLE, CURVE, many=False)
    moved = exact(study, [(100.0, 1, 160.0, 1.0, 0)])  # both numbers at an end of their bounds
    assert np.linalg.norm(moved) == pytest.approx(statistics.NORM)


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=5))
def test_shares_of_the_budget_add_up(shares: list[float]) -> None:
    parts = [BY | {"name": f"part-{n}", "share": share} for n, share in enumerate(shares)]
    layout = blocks(asking(*parts))
    assert sum(block.share for block in layout) == pytest.approx(1.0)
    assert sum((block.scale * block.norm) ** 2 for block in layout) == pytest.approx(1.0)


# -- plan, trainer, refusals -----------------------------------------------------------------------


def test_the_plan_is_one_release_that_both_sub_ledgers_pay() -> None:
    study = asking(TABLE, retry_allowance=1)
    (purpose,) = Plan.of(study).purposes.items()
    assert purpose[0] == "statistics" == study.purposes[0]
    assert isinstance(purpose[1].mechanism, FullBatchSum)
    assert (purpose[1].mechanism.clip, purpose[1].planned, purpose[1].allowance) == (1.0, 1, 1)
    assert purpose[1].mechanism.length == statistics.length(study)
    assert CHARGES["statistics"] == SUB_LEDGERS
    assert Plan.of(study).epsilon == pytest.approx(0.5, abs=1e-3)
    assert study.largest_epsilon == 0.5


def test_a_site_sums_all_of_its_patients_and_trains_nothing() -> None:
    study = asking(TABLE, CURVE, many=False)
    drawn = [(float(age), age % 3, 90.0 + age, float(age % 2), age) for age in range(60)]
    training, held = patients_of(study, drawn[:40]), patients_of(study, drawn[40:])
    assert private_step(study, "cpu") is None
    trainer = Trainer(study, Snapshot(training, held), noise=NoNoise())
    released = trainer.release("statistics", np.zeros(0), 1)
    real = Plan.of(study).purpose("statistics").mechanism.to_real(released)
    assert real == pytest.approx(exact(study, drawn), abs=2**-15)


def test_too_many_numbers_are_refused_with_a_way_out() -> None:
    wide = {"kind": "table", "name": "wide", "columns": ["age"], "by": "ward", "bins": 200}
    parts = [wide | {"name": f"wide-{n}"} for n in range(20)]
    study = asking(*parts)
    assert statistics.length(study) == 20 * 4 * 202
    crossed = asking(*[part | {"columns": ["age", "pressure"]} for part in parts])
    with pytest.raises(StudyError, match="the statistics have 32400 numbers, limit 20000") as no:
        Plan.of(crossed)
    assert "fewer columns" in no.value.hint


def test_a_study_that_asks_nothing_has_no_layout() -> None:
    with pytest.raises(StudyError, match="tiny is not a statistics study"):
        statistics.layout(small_study())
