"""A folder of small DICOM images, made of pydicom's own real CT slice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

from flo.clients.sources.mapping import StudyMapping
from flo.study.schema import Schema
from tests.builders import small_study

CT: Path = Path(str(get_testdata_file("CT_small.dcm")))
SCHEMA = Schema.model_validate(
    {
        **small_study().data.model_dump(),
        "record": "image",
        "records_per_patient": "many",
        "columns": [
            {
                **{"kind": "image", "name": "ct", "height": 8, "width": 8, "channels": 1},
                **{"minimum": -1000, "maximum": 1000},
            }
        ],
    }
)
MAPPING = StudyMapping.model_validate(
    {"columns": {"ct": {"field": "pixels"}, "ill": {"field": "malignant"}}}
)


def write(
    folder: Path,
    patients: int = 4,
    edit: Callable[[int, Any], object] = lambda number, image: None,
    more: Callable[[int], str] = lambda number: "",
    heading: str = "SOPInstanceUID,malignant",
) -> tuple[Path, Path]:
    """The folder, and the labels beside it: one image a patient, each a little brighter."""
    images, labels = folder / "images", folder / "labels.csv"
    images.mkdir()
    lines = [heading]
    for number in range(patients):
        image = pydicom.dcmread(CT)
        image.PatientID = f"P{number}"
        image.SOPInstanceUID = generate_uid(entropy_srcs=[str(number)])
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        pixels: np.ndarray = image.pixel_array + number
        image.PixelData = pixels.astype(np.int16).tobytes()
        edit(number, image)
        image.save_as(images / f"{number}.dcm")
        lines.append(f"{image.SOPInstanceUID},{number % 2}{more(number)}")
    labels.write_text("\n".join(lines) + "\n")
    return images, labels
