"""A signed result that is no model: what every kind of it states, and how it is checked.

The coordinator signs it, together with its study, and binds it to the privacy report. It contains
noisy sums, and no figure that follows from them: a reader computes those again.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import StringConstraints

from flo.documents import canonical
from flo.documents.document import Document
from flo.errors import TrustError
from flo.keys.claims import Digest, PublicKey, Signature
from flo.keys.identity import Signer, fingerprint, format_fingerprint, low_s, verify
from flo.privacy.accounting.plan import Plan
from flo.privacy.report.wording import trust
from flo.study.document import MAX_STUDY_BYTES, Study
from flo.study.loading import from_canonical
from flo.study.terms import Identifier


class SignedResult(Document):
    """``study``: its canonical document. ``run``, ``made``: which run gave it, and when.

    ``report``: digest of the privacy report made from the hospitals' extracts;
    ``without_extract``: hospitals whose extract had not arrived by then. ``coordinator``: its key.
    """

    signed_as: ClassVar[str]
    what: ClassVar[str]

    schema_version: Literal[1] = 1
    study: Annotated[str, StringConstraints(max_length=MAX_STUDY_BYTES)]
    study_signature: Signature
    run: Identifier
    made: Annotated[str, StringConstraints(max_length=500)]
    report: Digest | None
    without_extract: tuple[Identifier, ...]
    coordinator: PublicKey
    signature: Signature | Literal[""] = ""

    def signed(self, identity: Signer) -> Self:
        """Return a copy signed by this coordinator, replacing any earlier signature."""
        unsigned = self.model_copy(update={"coordinator": identity.public.hex(), "signature": ""})
        signature = identity.sign(self.signed_as, unsigned._statement())
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
                f"{self.what}: signed by another coordinator, {fingerprint(public)[:16]}",
                hint="ask the coordinator for its fingerprint and compare by telephone",
            )
        unsigned = self.model_copy(update={"signature": ""})
        verify(public, self.signed_as, unsigned._statement(), self.signature)
        verify(public, "study", self.study.encode(), self.study_signature)
        study = from_canonical(self.study.encode())
        partners = {hospital.id for hospital in study.hospitals}
        follows = (
            self.signature == low_s(self.signature)
            and set(self.without_extract) <= partners
            and self.follows_from(study)
        )
        if not follows:
            raise TrustError(f"{self.what}: the figures contradict the study")
        return study

    def follows_from(self, study: Study) -> bool:
        """Return whether the result can be of this study."""
        raise NotImplementedError

    def about(self, study: Study) -> list[tuple[str, str]]:
        """Return what is to be known of any result besides its figures: (label, text)."""
        missing = ", ".join(self.without_extract)
        plan = Plan.of(study)
        return [
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
