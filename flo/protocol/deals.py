"""Documents of a deal: what one hospital shares out for one attempt at a surviving sum.

``flo.privacy.secure_sum.deals`` makes and reads them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import Field, StringConstraints

from flo.documents.document import Document
from flo.keys.claims import LARGEST_COUNT, Digest, RunKey
from flo.study.terms import MOST_CONNECTED, Identifier

MOST_SEEDS = 5  # of a chain: a component for each level but the lowest, and the self mask
CHECK_BYTES = 16

Sealed = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{2}){1,300}$")]
Share = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
_Checks = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{32}){1,6}$")]


class DealtKey(Document):
    """What everyone learns of a deal: its number, its X25519 key, and the dealer's signature.

    Numbers of one run key increase with each deal. The signature is by the run key's Ed25519 half.
    """

    number: Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
    key: Digest
    signature: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{128}$")]


class Deal(DealtKey):
    """A deal as its dealer sends it to the coordinator.

    ``commitments``: hashes of the chain of seeds. ``checks``: for each holder and the dealer, by
    name, hashes of its shares, so that the coordinator can tell a wrong one. ``sealed``: for each
    holder's run key, its shares, encrypted; the coordinator cannot read them.
    """

    commitments: Annotated[tuple[Digest, ...], Field(min_length=1, max_length=MOST_SEEDS)]
    checks: Annotated[dict[Identifier, _Checks], Field(max_length=MOST_CONNECTED)]
    sealed: Annotated[dict[Digest, Sealed], Field(max_length=MOST_CONNECTED)]

    def was_dealt_to(self, keys: Iterable[RunKey]) -> bool:
        """Return whether just these run keys got shares."""
        return {key.key for key in keys} == set(self.sealed)

    def covers(self, keys: Iterable[RunKey]) -> bool:
        """Return whether each of these run keys got shares."""
        return all(key.key in self.sealed for key in keys)

    @property
    def public(self) -> DealtKey:
        """The part that all hospitals learn."""
        return DealtKey(number=self.number, key=self.key, signature=self.signature)
