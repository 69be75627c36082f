"""Flips and turns of images: averaged before clipping, so the clip still bounds a patient."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from flo.clients.data_process.trainer import Trainer, private_step
from flo.clients.records.snapshot import Snapshot
from flo.errors import StudyError
from flo.privacy.accounting.plan import Plan
from flo.privacy.gradients.augmentation import augmented, copies
from flo.privacy.gradients.bookkeeping import binary_loss
from flo.privacy.patients.patients import Patients
from flo.privacy.report.sheet import sections
from flo.study import models
from flo.study.document import Study, from_document
from tests.builders import NoNoise, study_document

RNG = np.random.default_rng(11)
CLIP = 0.05


pytestmark = pytest.mark.usefixtures("one_thread")


def study(height: int = 8, width: int = 8, model: str = "cnn", **mechanism: Any) -> Study:
    document = study_document()
    document["data"] |= {
        "records_per_patient": "many",
        "most_records": 4,
        "columns": [
            {
                **{"kind": "image", "name": "px", "height": height, "width": width},
                **{"minimum": -1, "maximum": 1},
            }
        ],
    }
    document["model"] = {"kind": model}
    document["mechanism"] |= {"augmentation": "flips", "clip": CLIP, **mechanism}
    return from_document(document)


def some(patients: int = 5, records: int = 3, size: int = 64) -> Patients:
    count = patients * records
    labels = (np.arange(count) % 2).astype(np.float64)
    inputs = RNG.uniform(-1, 1, (count, size))
    return Patients(inputs, labels, np.repeat(np.arange(patients), records), patients)


def without(patients: Patients, number: int) -> Patients:
    return Snapshot(patients, patients).without("training", number).training


def summed(of: Study, patients: Patients) -> npt.NDArray[np.float64]:
    """What a hospital's sum would be without noise."""
    trainer = Trainer(of, Snapshot(patients, without(patients, 0)), noise=NoNoise())
    noisy = trainer.release("training", models.initial_weights(of), 1)
    return np.asarray(Plan.of(of).purpose("training").mechanism.to_real(noisy))


@pytest.mark.parametrize(("height", "width", "count"), [(8, 8, 8), (8, 10, 4), (12, 8, 4)])
def test_copies_are_all_flips_and_turns_that_fit_and_each_once(
    height: int, width: int, count: int
) -> None:
    one = study(height, width)
    patients = some(2, 2, height * width)
    found = augmented(one, patients)
    assert copies(one) == count
    assert found.inputs.shape == (4 * count, height * width)
    for record in range(4):
        images = found.inputs[record * count : (record + 1) * count]
        np.testing.assert_array_equal(images[0], patients.inputs[record])
        assert len({image.tobytes() for image in images}) == count
        assert {tuple(sorted(image)) for image in images} == {tuple(sorted(images[0]))}
    np.testing.assert_array_equal(found.patient, np.repeat(patients.patient, count))
    np.testing.assert_array_equal(found.labels, np.repeat(patients.labels, count))


@pytest.mark.slow
def test_a_flipped_or_turned_image_is_the_same_patient() -> None:
    patients = some()
    turned = patients.inputs.reshape(-1, 8, 8).transpose(0, 2, 1).reshape(-1, 64)
    other = Patients(turned, patients.labels, patients.patient, patients.count)
    np.testing.assert_allclose(summed(study(), patients), summed(study(), other), atol=1e-4 * CLIP)


def test_a_patients_part_is_the_clipped_mean_over_the_copies() -> None:
    """Against plain autograd, one patient at a time."""
    one, patients = study(), some()
    module = models.build(one).double()
    weights = torch.from_numpy(models.initial_weights(one)).double()
    torch.nn.utils.vector_to_parameters(weights, module.parameters())
    wanted, scaled = torch.zeros_like(weights), 0
    turned = augmented(one, patients)
    for number in range(patients.count):
        own = turned.patient == number
        log_odds = module(torch.from_numpy(turned.inputs[own]))
        loss = binary_loss(log_odds, torch.from_numpy(turned.labels[own])).sum() / copies(one)
        slopes = torch.autograd.grad(loss, list(module.parameters()))
        gradient = torch.cat([slope.flatten() for slope in slopes])
        scaled += int(gradient.norm() > CLIP)
        wanted += gradient * min(1.0, CLIP / float(gradient.norm()))
    assert scaled == patients.count
    np.testing.assert_allclose(summed(one, patients), wanted.detach().numpy(), atol=1e-4 * CLIP)


@pytest.mark.parametrize("number", range(5))
def test_one_patient_moves_the_sum_by_the_clip_at_most(number: int) -> None:
    """Whoever it is, with images a thousand times beyond the bounds."""
    patients = some()
    patients.inputs[patients.patient == number] *= 1000
    moved = summed(study(), patients) - summed(study(), without(patients, number))
    grid = Plan.of(study()).purpose("training").mechanism.norm
    assert 0 < np.linalg.norm(moved) <= grid * (1 + 2**-10)


def test_without_it_nothing_changes_to_the_bit() -> None:
    plain, patients = study(augmentation="none"), some()
    assert b"augmentation" not in plain.canonical_bytes
    assert study().digest != plain.digest
    step = private_step(plain, "cpu")
    assert step is not None
    exact = step.clipped_sum(models.initial_weights(plain), step.batches(patients))
    mechanism = Plan.of(plain).purpose("training").mechanism
    assert np.abs(summed(plain, patients) - exact).max() <= mechanism.to_real(np.ones(1))[0]


def test_the_sheet_says_so() -> None:
    (text,) = [
        value
        for section in sections(study())
        for name, value in section.lines
        if name == "augmentation"
    ]
    assert "the mean over 8 flips and turns" in text


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"columns": "numbers"}, "without scattering"),
        ({"scattering": 1}, "without scattering"),
        ({"least": True}, "least-squares does not support augmentation"),
    ],
)
def test_what_cannot_be_turned_is_refused(changes: dict[str, Any], why: str) -> None:
    document = study().model_dump(mode="json", exclude_none=True)
    if "columns" in changes:
        document["data"]["columns"] = study_document()["data"]["columns"]
        document["model"] = {"kind": "logistic"}
    if "scattering" in changes:
        document["data"]["columns"][0]["scattering"] = 1
        document["model"] = {"kind": "logistic"}
    if "least" in changes:
        document["model"] = {"kind": "logistic"}
        document["mechanism"] |= {"algorithm": "least-squares", "steps": 1, "learning_rate": 0.0}
        document["mechanism"] |= {"momentum": 0.0}
    with pytest.raises(StudyError, match=why):
        from_document(document)
