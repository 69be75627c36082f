"""Encodings by hand, back to cells, and that no patient's encoding depends on another's."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from flo.arrays import Floats
from flo.study.columns import CategoryColumn, ImageColumn, NumberColumn
from flo.study.document import from_document
from flo.study.features import cell_of, cells, encode_category, encode_number, input_names, scale
from flo.study.loading import from_canonical
from flo.study.schema import Schema
from tests.builders import small_study

NAN = float("nan")
AGE = NumberColumn(kind="number", name="age", unit="years", minimum=20, maximum=100)
BENT = AGE.model_copy(update={"missing": "indicator", "missing_value": 60, "hinges": (40, 80)})
CHOL = NumberColumn(
    kind="number",
    name="chol",
    unit="mg/dl",
    minimum=0,
    maximum=400,
    missing="indicator",
    missing_value=100,
)
SEX = CategoryColumn(kind="category", name="sex", codes=("female", "male"))
SMOKES = CategoryColumn(kind="category", name="smokes", codes=("no", "yes"), missing="indicator")
SCAN = ImageColumn(kind="image", name="px", channels=2, height=8, width=9, minimum=0, maximum=255)
WARD = CategoryColumn(kind="category", name="ward", codes=("a", "b", "c"), missing="indicator")


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        pytest.param(AGE, [20, 60, 80, 100], [[-1], [0], [0.5], [1]], id="bounds to [-1, 1]"),
        # 100 of [0, 400] lies at 2 * 0.25 - 1
        pytest.param(CHOL, [400, NAN], [[1, 0], [-0.5, 1]], id="missing: constant and indicator"),
        pytest.param(CHOL, [], np.zeros((0, 2)), id="nobody"),
        # 0 up to the hinge, then to 1 at the maximum
        pytest.param(
            BENT,
            [20, 40, 70, 100, NAN],
            [[-1, 0, 0, 0], [-0.5, 0, 0, 0], [0.25, 0.5, 0, 0], [1, 1, 1, 0], [0, 1 / 3, 0, 1]],
            id="hinges",
        ),
    ],
)
def test_a_number_is_scaled_by_public_bounds(
    column: NumberColumn, values: list[float], expected: list[list[float]]
) -> None:
    got = encode_number(column, np.array(values, dtype=np.float64))
    np.testing.assert_array_equal(got, np.array(expected, dtype=np.float64))


@pytest.mark.parametrize(
    ("column", "codes", "expected"),
    [
        pytest.param(SEX, [0, 1], [[0], [1]], id="two codes, one input"),
        pytest.param(SMOKES, [1, -1], [[1, 0], [0, 1]], id="two codes and missing"),
        pytest.param(
            WARD, [2, 0, -1], [[0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]], id="three codes"
        ),
    ],
)
def test_a_category_becomes_zeros_and_ones(
    column: CategoryColumn, codes: list[int], expected: list[list[float]]
) -> None:
    got = encode_category(column, np.array(codes, dtype=np.int64))
    np.testing.assert_array_equal(got, np.array(expected, dtype=np.float64))


def test_inputs_are_named_in_the_order_of_the_encoding() -> None:
    schema = Schema(record="patient", label="ill", columns=(AGE, CHOL, SEX, SMOKES, WARD))
    assert input_names(schema) == [
        *("age", "chol", "chol=missing", "sex=male", "smokes=yes", "smokes=missing"),
        *("ward=a", "ward=b", "ward=c", "ward=missing"),
    ]


def test_a_hinge_is_named_by_its_value_and_leaves_the_ranges_of_a_survey_alone() -> None:
    schema = Schema(record="patient", label="ill", columns=(BENT, SEX))
    assert input_names(schema) == ["age", "age>40", "age>80", "age=missing", "sex=male"]
    inputs = np.hstack([encode_number(BENT, np.array([25.0, 95.0, NAN])), np.zeros((3, 1))])
    assert cell_of(schema, "age", inputs, 2).tolist() == [0, 1, 2]


@pytest.mark.parametrize("hinges", [(20,), (100,), (60, 50), (60, 60), (10,), tuple(range(21, 30))])
def test_hinges_rise_strictly_within_the_bounds_and_are_few(hinges: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="hinges"):
        NumberColumn.model_validate(BENT.model_dump() | {"hinges": hinges})


def test_a_study_without_hinges_has_the_digest_it_had() -> None:
    study = small_study()
    assert b"hinges" not in study.canonical_bytes
    document = study.model_dump(mode="json")
    (number,) = [c for c in document["data"]["columns"] if c["kind"] == "number"]
    number["hinges"] = [50.0]
    bent = from_document(document)
    assert b'"hinges":[50.0]' in bent.canonical_bytes
    assert from_canonical(bent.canonical_bytes) == bent
    assert bent.digest != study.digest


def test_an_image_is_an_input_for_each_pixel_in_rows_by_channel() -> None:
    schema = Schema(record="scan", label="ill", columns=(SCAN,))
    assert input_names(schema) == [f"px_{i}" for i in range(2 * 8 * 9)]
    assert input_names(schema) == list(SCAN.pixels)


def test_a_pixel_is_scaled_by_public_bounds_whatever_the_shape() -> None:
    np.testing.assert_array_equal(
        scale(SCAN, np.array([[0.0, 127.5, 255.0], [51.0, 204.0, 0.0]])),
        [[-1, 0, 1], [-0.6, 0.6000000000000001, -1]],
    )
    assert scale(SCAN, np.zeros((0, 144))).shape == (0, 144)


@given(st.lists(st.just(NAN) | st.floats(0, 400), min_size=1, max_size=8))
def test_one_patients_number_never_depends_on_another(values: list[float]) -> None:
    together = encode_number(CHOL, np.array(values))
    alone = [encode_number(CHOL, np.array([value]))[0] for value in values]
    np.testing.assert_array_equal(together, np.array(alone))


@given(st.lists(st.integers(-1, 2), min_size=1, max_size=8))
def test_one_patients_code_never_depends_on_another(codes: list[int]) -> None:
    together = encode_category(WARD, np.array(codes))
    alone = [encode_category(WARD, np.array([code]))[0] for code in codes]
    np.testing.assert_array_equal(together, np.array(alone))


# -- and back: the cells of a histogram ------------------------------------------------------------

EVERYTHING = Schema(record="patient", label="ill", columns=(AGE, CHOL, SEX, SMOKES, WARD))


@pytest.mark.parametrize(
    ("column", "bins", "expected"),
    [
        (SEX, 9, ["female", "male"]),
        (SMOKES, 9, ["no", "yes", "missing"]),
        (WARD, 0, ["a", "b", "c", "missing"]),
        (AGE, 2, ["20 to 60", "60 to 100"]),
        (AGE, 3, ["20 to 46.6667", "46.6667 to 73.3333", "73.3333 to 100"]),
        (CHOL, 4, ["0 to 100", "100 to 200", "200 to 300", "300 to 400", "missing"]),
    ],
)
def test_cells_are_codes_or_even_ranges_and_then_what_is_missing(
    column: CategoryColumn | NumberColumn, bins: int, expected: list[str]
) -> None:
    assert cells(column, bins) == expected


numbers = st.floats(20, 100)
people = st.lists(
    st.tuples(
        numbers, st.just(NAN) | st.floats(0, 400), *[st.integers(low, 2) for low in (0, -1, -1)]
    ),
    max_size=8,
).map(lambda drawn: [(a, c, min(sex, 1), min(smokes, 1), w) for a, c, sex, smokes, w in drawn])


def encoded(drawn: list[tuple[float, float, int, int, int]]) -> Floats:
    columns = np.array(drawn, dtype=np.float64).reshape(-1, 5).T
    age, chol = columns[:2]
    sex, smokes, ward = columns[2:].astype(np.int64)
    return np.hstack(
        [
            encode_number(AGE, age),
            encode_number(CHOL, chol),
            encode_category(SEX, sex),
            encode_category(SMOKES, smokes),
            encode_category(WARD, ward),
        ]
    )


@given(people)
def test_a_code_is_found_again_in_the_inputs(
    drawn: list[tuple[float, float, int, int, int]],
) -> None:
    inputs = encoded(drawn)
    for place, column in ((2, SEX), (3, SMOKES), (4, WARD)):
        missing = len(column.codes)
        expected = [missing if person[place] < 0 else person[place] for person in drawn]
        found = cell_of(EVERYTHING, column.name, inputs, 0)
        assert found.dtype == np.int64
        assert found.tolist() == expected


@given(people, st.integers(1, 50))
def test_a_number_is_found_again_in_its_range(
    drawn: list[tuple[float, float, int, int, int]], bins: int
) -> None:
    inputs = encoded(drawn)
    for place, column in ((0, AGE), (1, CHOL)):
        found = cell_of(EVERYTHING, column.name, inputs, bins)
        for person, cell in zip(drawn, found, strict=True):
            value = person[place]
            if np.isnan(value):
                assert cell == bins == cells(column, bins).index("missing")
                continue
            width = Fraction(column.maximum - column.minimum) / bins
            exact = (Fraction(value) - Fraction(column.minimum)) / width
            assume(abs(exact - round(exact)) > Fraction(1, 10**9) or exact in (0, bins))
            assert cell == min(int(exact), bins - 1)


@given(people, st.sampled_from(["age", "chol", "sex", "smokes", "ward"]), st.integers(1, 20))
def test_every_record_is_in_exactly_one_cell_and_alone_in_the_same(
    drawn: list[tuple[float, float, int, int, int]], name: str, bins: int
) -> None:
    column = next(column for column in EVERYTHING.columns if column.name == name)
    found = cell_of(EVERYTHING, name, encoded(drawn), bins)
    assert found.shape == (len(drawn),)
    assert set(found.tolist()) <= set(range(len(cells(column, bins))))
    alone = [int(cell_of(EVERYTHING, name, encoded([person]), bins)[0]) for person in drawn]
    assert found.tolist() == alone


def test_what_stands_in_for_a_missing_number_is_never_counted_as_one() -> None:
    inputs = encoded([(50.0, 100.0, 0, 0, 0), (50.0, NAN, 0, 0, 0)])  # 100 is the constant
    assert cell_of(EVERYTHING, "chol", inputs, 4).tolist() == [1, 4]


@pytest.mark.parametrize("name", ["ill", "nowhere", "ward=a", ""])
def test_a_column_that_is_not_there_has_no_cells(name: str) -> None:
    with pytest.raises(ValueError, match="no column"):
        cell_of(EVERYTHING, name, encoded([]), 4)
