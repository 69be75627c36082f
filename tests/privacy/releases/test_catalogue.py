"""A catalogue: orthogonal components of all columns and pairs, which a patient moves by one."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flo.arrays import Floats
from flo.errors import StudyError
from flo.privacy.accounting.readable import refuse_unreadable
from flo.privacy.patients.patients import Patients
from flo.privacy.releases import catalogue, statistics
from flo.privacy.releases.catalogue import CatalogueBlock, Component, contrasts_of
from flo.statistics.catalogue import CatalogueRead, read_catalogue
from flo.study.document import Study, from_document
from tests.privacy.releases.test_statistics import BY, CURVE, asking
from tests.privacy.releases.test_survey import Visit, patients_of, visits

ALL: dict[str, Any] = {"kind": "catalogue", "name": "all", "bins": 2}
SOME: dict[str, Any] = {
    **{"kind": "catalogue", "name": "some", "columns": ["age", "ward", "ill"]},
    **{"pairs": [["ward", "age"]], "ranges": [{"column": "age", "at": [18, 65]}]},
}
PARTS: list[list[dict[str, Any]]] = [[ALL], [SOME], [ALL | {"share": 3}, BY, SOME]]


def block_of(study: Study) -> CatalogueBlock:
    return next(one for one in statistics.layout(study) if isinstance(one, CatalogueBlock))


def read(study: Study, drawn: list[Visit]) -> CatalogueRead:
    noisy = statistics.exact(study, patients_of(study, drawn))
    return read_catalogue(block_of(study), noisy, 0.0)


# -- what is counted -------------------------------------------------------------------------------


def test_all_columns_the_label_and_all_pairs_are_counted_if_none_are_named() -> None:
    block = block_of(asking(ALL))
    names = [column.name for column in block.columns]
    assert names == ["age", "ward", "pressure", "ill"]
    assert block.pairs == list(combinations(range(4), 2))
    assert block.columns[2].cells == ("80 to 120", "120 to 160", "missing")
    few = block_of(asking(SOME))
    assert few.columns[0].cells == ("0 to 18", "18 to 65", "65 to 100")
    assert few.pairs == [(1, 0)]


def test_a_value_where_two_ranges_meet_is_in_the_upper_one() -> None:
    ages = [0.0, math.nextafter(18, 0), 18.0, math.nextafter(65, 0), 65.0, 100.0]
    drawn = [(age, 0, 90.0, 0.0, who) for who, age in enumerate(ages)]
    counts = [read(asking(SOME, many=False), drawn).counted((0,), np.eye(3)[k]) for k in range(3)]
    assert [one.patients.value for one in counts] == pytest.approx([2, 2, 2])


@given(visits.filter(bool))
def test_counts_of_every_cell_are_those_of_a_cross_tabulation(drawn: list[Visit]) -> None:
    """A patient's visits share a weight of 1."""
    weight = {who: 1 / sum(v[4] == who for v in drawn) for who in {v[4] for v in drawn}}
    found = read(asking(ALL), drawn)
    age, ill = 0, 3
    for cell in range(2):
        for label in range(2):
            mask = np.zeros((2, 2))
            mask[cell, label] = 1
            expected = sum(
                weight[v[4]]
                for v in drawn
                if (min(int(v[0] // 50), 1), int(v[3] == 1)) == (cell, label)
            )
            counted = found.counted((age, ill), mask).patients.value
            assert counted == pytest.approx(expected, abs=1e-9)


def test_components_are_orthogonal_contrasts() -> None:
    for size in (2, 3, 7):
        matrix = contrasts_of(size)
        assert matrix.shape == (size - 1, size)
        assert matrix @ matrix.T == pytest.approx(np.eye(size - 1))
        assert matrix.sum(axis=1) == pytest.approx(np.zeros(size - 1))


# -- sensitivity -----------------------------------------------------------------------------------


@given(st.sampled_from(PARTS), visits.filter(bool), st.data())
def test_one_patient_moves_the_whole_vector_by_at_most_one(
    parts: list[dict[str, Any]], drawn: list[Visit], data: st.DataObject
) -> None:
    study = asking(*parts)
    gone = data.draw(st.sampled_from(sorted({visit[4] for visit in drawn})))
    with_, without = (
        statistics.exact(study, patients_of(study, who))
        for who in (drawn, [visit for visit in drawn if visit[4] != gone])
    )
    assert np.linalg.norm(with_ - without) <= statistics.NORM + 1e-9


@given(visits.filter(bool))
def test_a_patient_with_one_record_moves_a_catalogue_by_exactly_one(drawn: list[Visit]) -> None:
    """So no noise is wasted, whoever the patient is."""
    found = statistics.exact(asking(ALL), patients_of(asking(ALL), drawn[:1]))
    assert np.linalg.norm(found) == pytest.approx(statistics.NORM)


@given(st.lists(st.floats(width=64), min_size=9, max_size=9), st.sampled_from([0.0, 1.0, math.nan]))
def test_no_inputs_of_a_patient_whatever_they_are_exceed_it(
    inputs: list[float], label: float
) -> None:
    """Also what no data check would let pass: infinite, not a number, far beyond the bounds."""
    study = asking(ALL, CURVE, many=False)
    width = patients_of(study, [(10.0, 0, 90.0, 1.0, 0)]).inputs.shape[1]
    values = np.resize(np.array(inputs), (1, width))
    patient = Patients(values, np.array([label]), np.zeros(1, dtype=np.int64), 1)
    found = statistics.exact(study, patient)
    assert np.isfinite(found).all()
    assert np.linalg.norm(found) <= statistics.NORM + 1e-9


# -- the weights -----------------------------------------------------------------------------------


def mean_variance(block: CatalogueBlock) -> float:
    tables = [*((n,) for n in range(len(block.columns))), *block.pairs]
    return float(np.mean([block.deviation(table, 1.0) ** 2 for table in tables]))


def squared_norm(block: CatalogueBlock) -> float:
    sizes = [column.size for column in block.columns]
    return sum(
        one.weight**2 * math.prod(1 - 1 / sizes[n] for n in of)
        for of, one in block.components.items()
    )


@pytest.mark.parametrize("part", [ALL, SOME], ids=["all", "some"])
def test_no_other_weights_of_that_norm_have_less_noise_in_the_cells(part: dict[str, Any]) -> None:
    block, draw = block_of(asking(part)), np.random.default_rng(11)
    assert squared_norm(block) == pytest.approx(1.0)
    for _ in range(50):
        weights = {
            of: one.weight * math.exp(draw.normal(0, 0.2)) for of, one in block.components.items()
        }
        other = replace(
            block,
            components={
                of: Component(one.start, one.end, weights[of])
                for of, one in block.components.items()
            },
        )
        scale = math.sqrt(squared_norm(other))
        assert mean_variance(other) * scale**2 >= mean_variance(block) - 1e-12


@given(st.integers(0, 1000))
def test_the_stated_noise_of_a_cell_is_what_it_has(seed: int) -> None:
    study, draw = asking(ALL), np.random.default_rng(seed)
    block, zero = block_of(study), np.zeros(statistics.length(study))
    pair = block.pairs[int(draw.integers(len(block.pairs)))]
    sizes = [block.columns[n].size for n in pair]
    variances = []
    for cell in np.ndindex(*sizes):
        mask = np.zeros(sizes)
        mask[cell] = 1.0
        linear = read_catalogue(block, zero, 4.0)._sum(pair, mask)
        variances.append(linear.noise(4.0 / block.scale**2))
    assert math.sqrt(np.mean(variances)) == pytest.approx(block.deviation(pair, 4.0))


def test_all_tables_agree_although_each_is_noisy() -> None:
    study, draw = asking(ALL), np.random.default_rng(5)
    noisy = draw.normal(0, 3.0, statistics.length(study))
    found = read_catalogue(block_of(study), noisy, 9.0)
    by_age = [found.counted((0,), np.eye(2)[k]).patients.value for k in range(2)]
    for other in (1, 2, 3):
        pair = (0, other)
        size = found.block.columns[other].size
        for cell in range(2):
            mask: Floats = np.zeros((2, size))
            mask[cell] = 1.0
            again = found._sum(pair, mask).value
            assert max(again, 0.0) == pytest.approx(by_age[cell])


# -- refusals --------------------------------------------------------------------------------------


def test_a_catalogue_of_few_patients_is_refused_before_anybody_approves_it() -> None:
    study = asking(ALL)
    with pytest.raises(StudyError, match=r"right within ± \d+ patients, and holds \d+ on average"):
        refuse_unreadable(study)
    document = study.model_dump(mode="json")
    for hospital in document["hospitals"]:
        hospital["declared_size"] = 9000
    refuse_unreadable(from_document(document))
    refuse_unreadable(asking(BY))


def test_a_catalogue_of_too_many_cells_is_refused() -> None:
    columns = [
        {"kind": "category", "name": f"c{n}", "codes": [f"k{k}" for k in range(40)]}
        for n in range(8)
    ]
    document = asking(ALL).model_dump(mode="json")
    document["data"]["columns"] = columns
    study = from_document(document)
    with pytest.raises(StudyError, match="numbers, limit 20000"):
        statistics.layout(study)


def test_the_mask_of_nothing_counts_nobody() -> None:
    found = read(asking(ALL), [(10.0, 0, 90.0, 1.0, 0)])
    assert found.counted((0,), np.zeros(2)).patients.value == pytest.approx(0)
    assert catalogue.contrasted(np.ones(3)) == pytest.approx(np.zeros(2))
