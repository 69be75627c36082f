"""An encoder is part of a study: which file, how many numbers; older studies stay as they were."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from flo.errors import StudyError
from flo.privacy.report.sheet import sections
from flo.study.document import Study, from_document
from flo.study.features import as_inputs, encode_image, input_names
from flo.study.loading import from_canonical
from flo.study.synthetic import made_up_inputs
from tests.builders import small_study
from tests.flo.studies import imaging

ENCODER: dict[str, Any] = {"name": "six numbers", "file": "0" * 64, "features": 6}
DOCUMENT = imaging("logistic", encoder=ENCODER) | {"schema_version": 4}


def study(**changes: Any) -> Study:
    document = copy.deepcopy(DOCUMENT)
    document["data"]["columns"][0]["encoder"] |= changes
    return from_document(document)


def test_it_is_part_of_the_study_and_its_numbers_are_the_inputs() -> None:
    made = study()
    assert input_names(made.data) == [f"px=feature {i}" for i in range(6)]
    assert from_canonical(made.canonical_bytes) == made
    others = [study(file="1" * 64), study(features=7), study(name="others")]
    assert len({one.digest for one in (made, *others)}) == 4
    without = from_document(imaging("logistic") | {"schema_version": 4})
    assert b"encoder" not in without.canonical_bytes


def test_other_columns_and_a_larger_image_may_stand_beside_it() -> None:
    document = copy.deepcopy(DOCUMENT)
    document["data"]["columns"][0] |= {"channels": 3, "height": 512, "width": 512}
    document["data"]["columns"].append(
        {"kind": "number", "name": "age", "unit": "years", "minimum": 0, "maximum": 120}
    )
    made = from_document(document)
    assert len(input_names(made.data)) == 7
    assert made_up_inputs(made.data).shape == (256, 7)


@pytest.mark.parametrize(
    ("place", "change", "told"),
    [
        ("", {"schema_version": 3}, "encoder: only in a study of schema_version = 4"),
        ("column", {"scattering": 2, "height": 8, "width": 8}, "scattering and encoder"),
        ("column", {"height": 1024, "width": 1024, "channels": 2}, "limit 1048576"),
        ("encoder", {"features": 0}, "features"),
        ("encoder", {"features": 32_769}, "features"),
        ("encoder", {"file": "../x.onnx"}, "file"),
        ("encoder", {"url": "http://x"}, "url"),
        ("encoder", {"name": "a\u202eb"}, "name"),
        ("model", {"kind": "cnn"}, "a cnn needs an image column, without scattering and encoder"),
        ("mechanism", {"augmentation": "flips"}, "augmentation needs an image column without"),
    ],
)
def test_what_does_not_fit_is_refused(place: str, change: dict[str, Any], told: str) -> None:
    document = copy.deepcopy(DOCUMENT)
    column = document["data"]["columns"][0]
    places = {"": document, "column": column, "encoder": column["encoder"]}
    places |= {"model": document["model"], "mechanism": document["mechanism"]}
    places[place] |= change
    with pytest.raises(StudyError, match=told):
        from_document(document)


def test_numbers_of_any_size_become_inputs_of_one_size() -> None:
    dice = np.random.default_rng(2)
    features = dice.normal(size=(5, 6)) * np.array([[1e-300], [1e-3], [1], [1e5], [1e300]])
    inputs = as_inputs(features)
    np.testing.assert_allclose((inputs**2).mean(axis=1), 1)
    np.testing.assert_allclose(inputs[2], features[2] / np.sqrt((features[2] ** 2).mean()))
    assert not as_inputs(np.zeros((2, 6))).any()
    for row in range(5):
        np.testing.assert_array_equal(as_inputs(features[row : row + 1])[0], inputs[row])
    (column,) = study().data.columns
    assert column.kind == "image"
    np.testing.assert_array_equal(encode_image(column, features), inputs)


def test_the_sheet_says_what_becomes_of_images_and_whom_epsilon_does_not_cover() -> None:
    lines = [line for section in sections(study()) for line in section.lines]
    (image,) = (text for label, text in lines if label == "column 'px'")
    assert f"becomes 6 numbers by the frozen encoder 'six numbers', file {'0' * 64}" in image
    left = [text for label, text in lines if label == "not covered"]
    assert left[-1].startswith("The people on whom an encoder, or a frozen layer, was")
    plain = [line for section in sections(small_study()) for line in section.lines]
    assert not any("encoder" in text for _, text in plain)
