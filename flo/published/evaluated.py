"""The evaluation's noisy sums on a model's card: what its AUC, risks and groups' rates follow from.

Anyone can compute those again from them, and ask further at no cost in privacy
(``flo.privacy.releases.group_rates``).
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from flo.arrays import Floats
from flo.documents.document import Document
from flo.privacy.accounting.plan import Plan, combined_variance
from flo.privacy.releases import evaluation
from flo.study.document import Study
from flo.study.terms import Identifier

LARGEST_SUM = 1e9  # of a number


class EvaluatedSums(Document):
    """The noisy sum of an evaluation's releases.

    ``hospitals``: those whose releases were added. ``values``: the sum, (length,), in the order of
    ``flo.privacy.releases.evaluation``.
    """

    hospitals: Annotated[tuple[Identifier, ...], Field(max_length=1000)]
    values: Annotated[
        tuple[Annotated[float, Field(ge=-LARGEST_SUM, le=LARGEST_SUM)], ...],
        Field(max_length=evaluation.MOST_ON_A_CARD),
    ]

    def follow_from(self, study: Study) -> bool:
        """Return whether these sums can be of this study's evaluation."""
        return (
            evaluation.fits_a_card(study)
            and len(self.values) == evaluation.length(study)
            and study.may_sum(self.hospitals)
        )

    def sums(self, study: Study) -> tuple[Floats, float]:
        """Return the sums (length,) and the noise variance of every number."""
        part = Plan.of(study).purpose("evaluation")
        return np.array(self.values), combined_variance(study, part, len(self.hospitals))
