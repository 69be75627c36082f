"""Flips and rotations of images: a patient's gradient is the mean over all copies of their images.

Augmentation multiplicity (De et al. 2022, arXiv:2204.13650, section 3.2): copies of a record are
averaged *before* clipping, so a patient still moves the sum by at most the clip, at no cost in
privacy. The copies are public and the same for every patient; none is random.

The mean of K gradients clipped to C is 1/K of their sum clipped to K · C, and K is a power of two,
so that dividing by it is exact. ``flo.privacy.gradients.step`` sums and clips; this module defines
K and the copies.
"""

from __future__ import annotations

import numpy as np

from flo.privacy.patients.patients import Patients
from flo.study.columns import ImageColumn
from flo.study.document import Study


def copies(study: Study) -> int:
    """Return K, with the image itself counted.

    8 for squares; 4 for other images, which have no quarter turns.
    """
    if study.mechanism.augmentation == "none":
        return 1
    image = _image(study)
    return 8 if image.height == image.width else 4


def augmented(study: Study, patients: Patients) -> Patients:
    """Replace every record by its copies, in order; labels and patients are repeated."""
    count = copies(study)
    if count == 1:
        return patients
    image = _image(study)
    planes = patients.inputs.reshape(-1, image.channels, image.height, image.width)
    turned = [planes, np.rot90(planes, 2, axes=(2, 3))]
    if count == 8:
        turned += [np.rot90(planes, 1, axes=(2, 3)), np.rot90(planes, 3, axes=(2, 3))]
    all_ = np.stack([*turned, *(one[..., ::-1] for one in turned)], axis=1)
    return Patients(
        all_.reshape(len(planes) * count, patients.inputs.shape[1]),  # also with 0 records
        np.repeat(patients.labels, count),
        np.repeat(patients.patient, count),
        patients.count,
    )


def _image(study: Study) -> ImageColumn:
    (image,) = study.data.columns
    if not isinstance(image, ImageColumn):
        raise TypeError("augmentation needs an image column")  # the study's validation excludes it
    return image
