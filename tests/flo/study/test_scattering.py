"""Fixed wavelet features: what they keep, what they forget, and that images never mix."""

from __future__ import annotations

import numpy as np
import pytest

from flo.study.columns import ImageColumn
from flo.study.document import from_document
from flo.study.features import encode_image, input_names
from flo.study.scattering import ORIENTATIONS, _bank, count, scatter
from flo.study.schema import Schema
from tests.builders import study_document

RNG = np.random.default_rng(5)
IMAGES = RNG.normal(size=(7, 16, 24))


def image(**changes: object) -> ImageColumn:
    return ImageColumn.model_validate(
        {
            **{"kind": "image", "name": "px", "channels": 2, "height": 16, "width": 24},
            **{"minimum": 0, "maximum": 255, "scattering": 2},
            **changes,
        }
    )


@pytest.mark.parametrize("scales", [1, 2, 3])
def test_there_are_as_many_numbers_as_are_said(scales: int) -> None:
    assert scatter(IMAGES, scales).shape == (7, count(16, 24, scales))
    kinds = 1 + ORIENTATIONS * scales + ORIENTATIONS**2 * scales * (scales - 1) // 2
    assert count(16, 24, scales) == kinds * (16 >> scales) * (24 >> scales)


def test_a_constant_is_itself_and_nothing_more() -> None:
    found = scatter(np.full((1, 16, 16), 0.7), 2)[0]
    np.testing.assert_allclose(found[:16], 0.7, atol=1e-12)
    np.testing.assert_allclose(found[16:], 0, atol=1e-12)


@pytest.mark.parametrize("scales", [1, 2, 3])
def test_wavelets_amplify_nothing(scales: int) -> None:
    """Littlewood-Paley: low-pass and half the wavelets of both directions stay below 1 (+ 5 %)."""
    wavelets, low = _bank(32, 32, scales)
    power = (np.abs(wavelets) ** 2).sum(axis=(0, 1))
    mirrored = np.roll(power[::-1, ::-1], (1, 1), (0, 1))
    assert (low**2 + (power + mirrored) / 2).max() < 1.05


def test_a_shift_by_its_own_step_shifts_the_features_and_a_small_one_moves_them_little() -> None:
    still = scatter(IMAGES, 2).reshape(7, -1, 4, 6)
    np.testing.assert_allclose(
        scatter(np.roll(IMAGES, 4, axis=1), 2).reshape(7, -1, 4, 6),
        np.roll(still, 1, axis=2),
        atol=1e-12,
    )
    smooth = scatter(IMAGES, 2)
    moved = np.linalg.norm(scatter(np.roll(IMAGES, 1, axis=2), 2) - smooth)
    pixels = np.linalg.norm(np.roll(IMAGES, 1, axis=2) - IMAGES)
    assert moved < 0.5 * pixels


def test_a_turn_turns_the_orientations() -> None:
    """A line along x answers where a line along y does not."""
    across, along = np.zeros((2, 16, 16))
    across[8, :], along[:, 8] = 1.0, 1.0
    one, other = scatter(np.stack([across, along]), 1).reshape(2, 1 + ORIENTATIONS, 64)
    strength = np.stack([one[1:].sum(axis=1), other[1:].sum(axis=1)])
    assert strength[0].argmax() != strength[1].argmax()
    assert abs(int(strength[0].argmax()) - int(strength[1].argmax())) == ORIENTATIONS // 2


def test_no_bit_of_an_image_depends_on_its_neighbours() -> None:
    whole = scatter(IMAGES, 2)
    for number in range(len(IMAGES)):
        np.testing.assert_array_equal(scatter(IMAGES[number : number + 1], 2)[0], whole[number])


def test_each_channel_has_its_own_inputs() -> None:
    column = image()
    inputs = encode_image(column, IMAGES[:6].reshape(3, -1))
    each = count(16, 24, 2)
    assert inputs.shape == (3, 2 * each)
    np.testing.assert_array_equal(inputs[1, each:], scatter(IMAGES[3:4], 2)[0])
    data = Schema.model_validate(
        {"record": "scan", "label": "ill", "columns": [column.model_dump(mode="json")]}
    )
    assert len(input_names(data)) == len(set(input_names(data))) == 2 * each


def test_images_with_features_stand_beside_numbers_and_plain_ones_keep_their_digest() -> None:
    document = study_document()
    document["data"]["columns"].append(image().model_dump(mode="json"))
    study = from_document(document)
    assert b'"scattering":2' in study.canonical_bytes
    document["data"]["columns"] = [
        image(scattering=None).model_dump(mode="json", exclude_none=True)
    ]
    assert b"scattering" not in from_document(document).canonical_bytes
