"""The release gate's noisy sums, on a model's card or as a signed result of their own.

Anyone can compute the verdict again from them (``flo.privacy.releases.gate_decision``), and it is
not in them. A study that trains a model has its gate on the model's card; a gate between two models
that were published before is a signed result, ``NAME-RUN.gate.json``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from flo.documents.document import Document, read_json
from flo.keys.claims import Digest
from flo.privacy.accounting.plan import Plan, combined_variance
from flo.privacy.releases import gate
from flo.privacy.releases.gate_decision import Comparison, read
from flo.published.signed_result import SignedResult
from flo.study.document import MAX_STUDY_BYTES, Study
from flo.study.gate import MOST_CODES
from flo.study.terms import Identifier

MAX_GATE_BYTES = 2 * MAX_STUDY_BYTES + (1 << 17)  # a study in JSON text, and the sums
LARGEST_VALUE, MOST_VALUES = 1e9, 4 * (MOST_CODES + 1)  # of a number of the sum; numbers


class GateSums(Document):
    """The noisy sum of a gate's releases.

    ``hospitals``: those whose releases were added. ``values``: the sum, (length,), in the unit of
    ``flo.privacy.releases.gate``. ``asked``: digest of the request, which carried both models; each
    hospital's ledger row of its release has the same.
    """

    asked: Digest
    hospitals: Annotated[tuple[Identifier, ...], Field(max_length=1000)]
    values: Annotated[
        tuple[Annotated[float, Field(ge=-LARGEST_VALUE, le=LARGEST_VALUE)], ...],
        Field(max_length=MOST_VALUES),
    ]

    def follow_from(self, study: Study) -> bool:
        """Return whether these sums can be of this study's gate."""
        return (
            study.gate is not None
            and study.gate.is_filled_in
            and len(self.values) == gate.length(study)
            and study.may_sum(self.hospitals)
        )

    def comparison(self, study: Study) -> Comparison:
        """Return what the gate says; the sums must ``follow_from`` the study."""
        variance = combined_variance(study, Plan.of(study).purpose("gate"), len(self.hospitals))
        return read(study, np.array(self.values), variance)


class GateResult(SignedResult):
    """The gate between two models that were published before; its study names both."""

    signed_as: ClassVar[str] = "gate-result"
    what: ClassVar[str] = "this gate's result"

    sums: GateSums

    def follows_from(self, study: Study) -> bool:
        """Return whether the study compares two published models, and these are its sums."""
        return study.compares and self.sums.follow_from(study)


def read_gate(path: Path) -> GateResult:
    """Read a gate's result without checking it. Raises UsageError or MessageError."""
    return read_json(GateResult, path, limit=MAX_GATE_BYTES)
