"""An outcome that is one of several classes, such as the stage of a disease.

A record's label is the number of its class, 0 to K - 1. A model has K outputs z. By it a record is
of class k with the probability p_k = exp(z_k) / Σ_j exp(z_j) (multinomial logistic regression). The
score of class k is its log odds against all others,

    s_k = log p_k / (1 - p_k) = z_k - log Σ_(j ≠ k) exp(z_j),

so that each class is evaluated and calibrated as an outcome of yes or no.
"""

from __future__ import annotations

import unicodedata
from functools import reduce
from itertools import combinations
from typing import Literal

import numpy as np
from pydantic import model_validator
from scipy.special import log_expit

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
    classes: tuple[Code, ...]

    @model_validator(mode="after")
    def _distinct(self) -> Classes:
        if len(self.classes) < FEWEST_CLASSES:
            raise ValueError(
                f"{len(self.classes)} classes, at least {FEWEST_CLASSES}; two are yes or no, "
                "without [data.outcome]"
            )
        if len(self.classes) > MOST_CLASSES:
            raise ValueError(
                f"{len(self.classes)} classes, limit {MOST_CLASSES}: merge those that few have"
            )
        for first, second in combinations(self.classes, 2):
            if _looks_like(first) == _looks_like(second):
                raise ValueError(f"the classes {first!r} and {second!r} cannot be told apart")
        return self

    @property
    def codes(self) -> int:
        """How many classes there are."""
        return len(self.classes)


def _looks_like(name: str) -> str:
    """Return one text for names that a person, or a table that writes 1 as 1.0, may confuse."""
    try:
        return str(float(name))
    except ValueError:
        return unicodedata.normalize("NFKC", name).casefold()


def log_risks(scores: Floats) -> Floats:
    """Return the logarithms of the probabilities of scores (n, K): outputs of a model whose log
    odds of each class against all others are these."""
    return np.asarray(log_expit(scores))


def against_others(outputs: Floats) -> Floats:
    """Return the log odds of each class against all others, (n, K), of a model's outputs (n, K).

    Each record is computed alone, number by number: no other record changes a bit of it.
    """
    columns = list(np.ascontiguousarray(outputs.T))
    others = (columns[:k] + columns[k + 1 :] for k in range(len(columns)))
    with np.errstate(invalid="ignore"):  # an output that is not finite has no finite log odds
        each = [one - reduce(np.logaddexp, rest) for one, rest in zip(columns, others, strict=True)]
    return np.stack(each, axis=1)
