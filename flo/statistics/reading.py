"""All parts of a statistics study, read from its noisy sum."""

from __future__ import annotations

from collections.abc import Sequence

from flo.arrays import Floats
from flo.privacy.releases import regressions
from flo.privacy.releases.catalogue import CatalogueBlock
from flo.privacy.releases.fisher_scoring import Released
from flo.privacy.releases.statistics import in_units, layout
from flo.statistics.catalogue import CatalogueRead, read_catalogue
from flo.statistics.regression import RegressionRead, read_regression
from flo.statistics.survival import SurvivalRead, read_survival
from flo.statistics.table_one import TableRead, read_table
from flo.study.columns import NumberColumn
from flo.study.document import Study
from flo.study.statistics import TableOne

PartRead = TableRead | SurvivalRead | RegressionRead | CatalogueRead


def read(
    study: Study, noisy: Floats, variance: float, rounds: Sequence[Released] = ()
) -> list[PartRead]:
    """Read the releases of a statistics study, or the sum of several hospitals' releases.

    ``noisy``: (length,), in the unit of the summands. ``variance``: of the noise in each
    coordinate, in that unit squared. ``rounds``: of its regressions, which come last;
    fewer than planned, or none, if the run was cut short.
    """
    numbers = {c.name: c for c in study.data.columns if isinstance(c, NumberColumn)}
    found = list[PartRead]()
    for block in layout(study):
        if isinstance(block, CatalogueBlock):
            found.append(read_catalogue(block, noisy, variance))
            continue
        values, in_patients = in_units(study, block, noisy), variance / block.scale**2
        if isinstance(block.part, TableOne):
            found.append(read_table(block, values, in_patients, numbers))
        else:
            start = numbers[block.part.time].minimum
            found.append(read_survival(block, values, in_patients, start))
    for regression in regressions.layout(study):
        found.append(read_regression(study, regression, rounds))
    return found
