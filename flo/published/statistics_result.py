"""The signed result of a statistics study: its noisy sum, from which every table follows.

Anyone can compute all tables, curves and tests again from this file (``flo.statistics``), and no
figure of them is in it. ``NAME-RUN.statistics.json``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, StringConstraints

from flo.arrays import Floats
from flo.documents import canonical
from flo.documents.document import Document, read_json
from flo.errors import TrustError
from flo.keys.claims import Digest, PublicKey, Signature
from flo.keys.identity import Signer, fingerprint, format_fingerprint, low_s, verify
from flo.privacy.accounting.plan import Plan, combined_variance
from flo.privacy.releases import statistics
from flo.privacy.report.wording import trust
from flo.study.document import MAX_STUDY_BYTES, Study
from flo.study.loading import from_canonical
from flo.study.statistics import MOST_CELLS
from flo.study.terms import Identifier

MAX_RESULT_BYTES = 4 * MAX_STUDY_BYTES
LARGEST_VALUE = 1e12  # of a number of the sum
_Value = Annotated[float, Field(ge=-LARGEST_VALUE, le=LARGEST_VALUE)]


class StatisticsResult(Document):
    """``study``: its canonical document. ``hospitals``: of whom the sum is. ``values``: the noisy
    sum, (length,), in the unit of ``flo.privacy.releases.statistics``.

    ``report``: digest of the privacy report made from the hospitals' extracts;
    ``without_extract``: hospitals whose extract had not arrived by then. ``coordinator``: its key.
    """

    schema_version: Literal[1] = 1
    study: Annotated[str, StringConstraints(max_length=MAX_STUDY_BYTES)]
    study_signature: Signature
    run: Identifier
    made: Annotated[str, StringConstraints(max_length=500)]
    hospitals: Annotated[tuple[Identifier, ...], Field(min_length=1, max_length=1000)]
    values: Annotated[tuple[_Value, ...], Field(min_length=1, max_length=MOST_CELLS)]
    report: Digest | None
    without_extract: tuple[Identifier, ...]
    coordinator: PublicKey
    signature: Signature | Literal[""] = ""

    def signed(self, identity: Signer) -> StatisticsResult:
        """Return a copy signed by this coordinator, replacing any earlier signature."""
        unsigned = self.model_copy(update={"coordinator": identity.public.hex(), "signature": ""})
        signature = identity.sign("statistics-result", unsigned._statement())
        return unsigned.model_copy(update={"signature": signature})

    def check(self, *coordinators: str) -> Study:
        """Verify the result and return its study.

        Raises:
            TrustError: not signed by a key of fingerprint in ``coordinators``, or not a result of
            its study.
        """
        public = bytes.fromhex(self.coordinator)
        if fingerprint(public) not in coordinators:
            raise TrustError(
                f"these statistics are signed by another coordinator, {fingerprint(public)[:16]}",
                hint="ask the coordinator for its fingerprint and compare by telephone",
            )
        unsigned = self.model_copy(update={"signature": ""})
        verify(public, "statistics-result", unsigned._statement(), self.signature)
        verify(public, "study", self.study.encode(), self.study_signature)
        study = from_canonical(self.study.encode())
        partners = {hospital.id for hospital in study.hospitals}
        follows = (
            self.signature == low_s(self.signature)
            and study.statistics is not None
            and len(self.values) == statistics.length(study)
            and set(self.hospitals) <= partners
            and study.cohort_floor <= len(set(self.hospitals)) == len(self.hospitals)
            and set(self.without_extract) <= partners
        )
        if not follows:
            raise TrustError("the statistics contradict their study")
        return study

    def noisy(self) -> Floats:
        """Return the noisy sum, (length,)."""
        return np.array(self.values)

    def variance(self, study: Study) -> float:
        """Return the variance of the noise in each coordinate, which follows from the study."""
        part = Plan.of(study).purpose("statistics")
        return combined_variance(study, part, len(self.hospitals))

    def facts(self, study: Study) -> list[tuple[str, str]]:
        """Return what is to be known of the result besides its figures: (label, text)."""
        missing = ", ".join(self.without_extract)
        plan = Plan.of(study)
        return [
            ("hospitals", ", ".join(self.hospitals)),
            (
                "privacy",
                f"ε = {plan.epsilon:.4f}, δ = {plan.delta:g} for one patient of one hospital",
            ),
            ("trust model", trust(study)),
            ("made", self.made),
            ("report", self.report or "none: extracts were missing or contradicted each other"),
            ("without extract", missing or "none: every hospital's ledger is in the report"),
            ("study digest", study.digest),
            ("signed by", format_fingerprint(fingerprint(bytes.fromhex(self.coordinator)))),
        ]

    def _statement(self) -> bytes:
        return canonical.encode(self.model_dump(mode="json", exclude={"signature"}))


def read_result(path: Path) -> StatisticsResult:
    """Read a result without checking it. Raises UsageError or MessageError."""
    return read_json(StatisticsResult, path, limit=MAX_RESULT_BYTES)
