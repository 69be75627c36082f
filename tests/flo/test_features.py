"""Encodings by hand, and that no patient's encoding depends on another's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flo.features import encode_category, encode_number, input_names
from flo.models import initial_weights, parameter_count, parameter_names
from flo.study import CategoryColumn, NumberColumn, Schema
from tests.builders import small_study

NAN = float("nan")
AGE = NumberColumn(kind="number", name="age", unit="years", minimum=20, maximum=100)
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
WARD = CategoryColumn(kind="category", name="ward", codes=("a", "b", "c"), missing="indicator")


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        pytest.param(AGE, [20, 60, 80, 100], [[-1], [0], [0.5], [1]], id="bounds to [-1, 1]"),
        # 100 of [0, 400] lies at 2 * 0.25 - 1
        pytest.param(CHOL, [400, NAN], [[1, 0], [-0.5, 1]], id="missing: constant and indicator"),
        pytest.param(CHOL, [], np.zeros((0, 2)), id="nobody"),
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


def test_a_model_has_a_parameter_per_input_and_a_bias() -> None:
    study = small_study()
    assert parameter_names(study) == [*input_names(study.data), "bias"]
    assert parameter_count(study) == 6
    assert initial_weights(study).tolist() == [0.0] * 6


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
