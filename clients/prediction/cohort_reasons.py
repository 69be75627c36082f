"""What moves a model's scores among the patients of one file: this hospital's, or a cohort's.

Not private: the figures depend on single patients. They are shown on the site's own screen, and
nothing is sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flo.clients.home.site_config import open_table
from flo.clients.quality.check import check_inputs
from flo.errors import DataError
from flo.published.explanation import CERTAIN, contributions, surely_moves
from flo.published.model_card import PublishedModel
from flo.study.wording import titles


@dataclass(frozen=True)
class CohortReason:
    """``moves_by``: as ``explanation.surely_moves``, over these patients.

    ``raises``, ``lowers``: share of the patients for whom it surely does, beyond noise.
    """

    column: str  # in the study's words
    moves_by: float
    raises: float
    lowers: float


def cohort_reasons(
    model: PublishedModel, data: Path, id_column: str
) -> tuple[list[CohortReason], int]:
    """Return the columns, the most important first, and the number of records.

    Raises:
        DataError: the file does not fit the study's columns, or has no record. UsageError: the card
        states no noise.
    """
    inputs = check_inputs(open_table(data, id_column), model.study.data)
    if not len(inputs):
        raise DataError(f"{data} has no record to explain", hint="give a file with patients")
    told, words = contributions(model, inputs), titles(model.study.data)
    moves = surely_moves(told)
    certain = np.abs(told.values) > CERTAIN * told.deviations
    found = [
        CohortReason(
            words[name],
            float(moves[place]),
            float((certain[:, place] & (told.values[:, place] > 0)).mean()),
            float((certain[:, place] & (told.values[:, place] < 0)).mean()),
        )
        for place, name in enumerate(told.columns)
    ]
    return sorted(found, key=lambda one: -one.moves_by), len(inputs)
