"""An outcome that is one of several classes, such as the stage of a disease.

A record's label is the number of its class, 0 to K - 1. A model has K outputs z. By it a record is
of class k with the probability p_k = exp(z_k) / Σ_j exp(z_j) (multinomial logistic regression). The
score of class k is its log odds against all others,

    s_k = log p_k / (1 - p_k) = z_k - log Σ_(j ≠ k) exp(z_j),

so that each class is evaluated and calibrated as an outcome of yes or no.
"""

from __future__ import annotations

from functools import reduce
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from flo.arrays import Floats
from flo.documents.document import Document
from flo.study.names import Code

FEWEST_CLASSES, MOST_CLASSES = 3, 12


class Classes(Document):
    """Classes in the label's column.

    ``classes``: the 3 to 12 codes that the column may hold, each of which many patients have: a
    study merges rare ones by public knowledge.
    """

    kind: Literal["classes"]
    classes: Annotated[tuple[Code, ...], Field(min_length=FEWEST_CLASSES, max_length=MOST_CLASSES)]

    @model_validator(mode="after")
    def _distinct(self) -> Classes:
        twice = [one for one in self.classes if self.classes.count(one) > 1]
        if twice:
            raise ValueError(f"the class {twice[0]!r} appears twice")
        return self

    @property
    def codes(self) -> int:
        """How many classes there are."""
        return len(self.classes)


def against_others(outputs: Floats) -> Floats:
    """Return the log odds of each class against all others, (n, K), of a model's outputs (n, K).

    Each record is computed alone, number by number: no other record changes a bit of it.
    """
    columns = list(np.ascontiguousarray(outputs.T))
    others = (columns[:k] + columns[k + 1 :] for k in range(len(columns)))
    with np.errstate(invalid="ignore"):  # an output that is not finite has no finite log odds
        each = [one - reduce(np.logaddexp, rest) for one, rest in zip(columns, others, strict=True)]
    return np.stack(each, axis=1)
