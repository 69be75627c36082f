"""All parts of a statistics study, read from its noisy sum."""

from __future__ import annotations

from flo.arrays import Floats
from flo.privacy.releases.statistics import in_units, layout
from flo.statistics.survival import SurvivalRead, read_survival
from flo.statistics.table_one import TableRead, read_table
from flo.study.document import Study
from flo.study.schema import NumberColumn
from flo.study.statistics import TableOne

PartRead = TableRead | SurvivalRead


def read(study: Study, noisy: Floats, variance: float) -> list[PartRead]:
    """Read a release of a statistics study, or the sum of several hospitals' releases.

    ``noisy``: (length,), in the unit of the summands. ``variance``: of the noise in each
    coordinate, in that unit squared.
    """
    numbers = {c.name: c for c in study.data.columns if isinstance(c, NumberColumn)}
    found = list[PartRead]()
    for block in layout(study):
        values, in_patients = in_units(study, block, noisy), variance / block.scale**2
        if isinstance(block.part, TableOne):
            found.append(read_table(block, values, in_patients, numbers))
        else:
            start = numbers[block.part.time].minimum
            found.append(read_survival(block, values, in_patients, start))
    return found
