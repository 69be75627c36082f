"""Refuse a study whose catalogue would be mostly noise, before anybody is asked to approve it."""

from __future__ import annotations

import math
from statistics import median

from flo.errors import StudyError
from flo.privacy.accounting.plan import Plan, combined_variance
from flo.privacy.releases import statistics
from flo.privacy.releases.catalogue import CatalogueBlock
from flo.study.document import Study

MOST_NOISE = 2.0  # half the width of a cell's 95 % interval, by the patients of a mean cell
_Z = 1.96


def refuse_unreadable(study: Study) -> None:
    """Raise StudyError if the typical cell of a catalogue's pairs would say nothing.

    What a cell will hold is not known; a mean one holds all patients by the number of cells.
    """
    if study.statistics is None or "statistics" not in study.purposes:
        return
    part = Plan.of(study).purpose("statistics")
    variance = combined_variance(study, part, len(study.hospitals))
    everyone = sum(hospital.planned for hospital in study.hospitals)
    for block in statistics.layout(study):
        if not isinstance(block, CatalogueBlock):
            continue
        tables = block.pairs or [(n,) for n in range(len(block.columns))]
        half = median(_Z * block.deviation(table, variance) for table in tables)
        cells = median(math.prod(block.columns[n].size for n in table) for table in tables)
        if half > MOST_NOISE * everyone / cells:
            raise StudyError(
                f"statistics {block.part.name}: a cell would be right within "
                f"± {half:.0f} patients, and holds {everyone / cells:.0f} on average; limit "
                f"± {MOST_NOISE * everyone / cells:.0f}",
                hint="name fewer columns or only the pairs that matter, wider ranges, a larger "
                "share, or more ε",
            )
