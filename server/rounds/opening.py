"""Open the sum of an attempt's survivors: list, certificate, shares, and what they hide removed.

Steps 11 to 14 of the protocol in ``flo.privacy.secure_sum.masking``, from the coordinator. Nothing
is opened of a list that is not certified, and nobody is asked to sign two lists of one attempt.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any

from flo.errors import TrustError
from flo.keys.claims import ListSignature
from flo.privacy.accounting.plan import Plan, components_of, ring_of
from flo.privacy.secure_sum.deals import numbers_of
from flo.privacy.secure_sum.masking import attempt_of
from flo.privacy.secure_sum.survivors import statement
from flo.privacy.secure_sum.unmasking import Member, Shares, remove
from flo.protocol.deals import Deal
from flo.protocol.messages import Reply, RequestHeader, model_digest
from flo.server.rounds.aggregation import StreamingSum
from flo.server.rounds.conversation import Take
from flo.server.rounds.state import NO_WEIGHTS
from flo.study.document import Study
from flo.study.tolerance import Tolerance

log = logging.getLogger("flo.server.rounds")

Ask = Callable[[RequestHeader, Collection[str], Take], None]


class Opening:
    """One attempt of a study whose sums survive dropouts, after its uploads."""

    @classmethod
    def of(cls, study: Study, asked: RequestHeader, deals: Mapping[str, Deal]) -> Opening | None:
        """Return the opening of an attempt, before its uploads; None if sums survive no dropout.

        ``asked``: the request for the release. ``deals``: of its cohort at least.
        """
        return cls(study, study.tolerance, asked, deals) if study.tolerance else None

    def __init__(
        self, study: Study, tolerance: Tolerance, asked: RequestHeader, deals: Mapping[str, Deal]
    ) -> None:
        self._study, self._tolerance = study, tolerance
        self._part = Plan.of(study).purpose(asked.purpose)
        ring = ring_of(study, self._part, len(asked.cohort))
        self._attempt = attempt_of(asked, ring, self._part.mechanism.length)
        nothing = {"model": model_digest(NO_WEIGHTS), "bits": 8 * NO_WEIGHTS.itemsize}
        relayed: dict[str, Any] = {"keys": {}, "heads": {}, "vouchers": {}, "deals": {}}
        self._asked = asked.model_copy(update=nothing | relayed)
        numbers = numbers_of(study)
        self._members = {
            name: Member(numbers[name], study.hospital(name).fingerprint, deals[name])
            for name in asked.cohort
        }

    def open(self, survivors: tuple[str, ...], gathered: StreamingSum, ask: Ask) -> None:
        """Remove from the survivors' sum, in place, all that is to be removed.

        ``survivors``: sorted, of the cohort, as named to anybody before.

        Raises:
            TrustError: an upload of a survivor is missing, or too few survivors signed the list or
                revealed right shares.
        """
        if gathered.hospitals != set(survivors):
            raise TrustError("not all hospitals of the list of survivors replied")
        listed = self._asked.model_copy(update={"survivors": survivors})
        signatures = {} if survivors == listed.cohort else self._certificate(listed, ask)
        found = self._shares(listed, signatures, ask).open()
        components = components_of(self._study, self._part, len(listed.cohort))
        gathered.open(
            lambda total: remove(
                total, self._attempt, self._members, found, self._tolerance, components
            )
        )

    def _certificate(self, listed: RequestHeader, ask: Ask) -> dict[str, ListSignature]:
        """Return ``threshold`` survivors' signatures under the list. [12]"""
        signed, signatures = statement(self._attempt, listed.survivors), {}

        def take(hospital: str, reply: Reply) -> bool:
            given = reply.header.signature
            if given is not None:
                try:
                    given.check(self._members[hospital].fingerprint, signed)
                    signatures[hospital] = given
                except TrustError as error:
                    log.warning(f"{hospital}: {error}")
            return len(signatures) >= self._tolerance.threshold

        ask(listed.model_copy(update={"kind": "sign"}), listed.survivors, take)
        if len(signatures) < self._tolerance.threshold:
            raise TrustError(
                f"{len(signatures)} of the {self._tolerance.threshold} hospitals that are needed "
                "signed the list of survivors"
            )
        return signatures

    def _shares(
        self, listed: RequestHeader, signatures: dict[str, ListSignature], ask: Ask
    ) -> Shares:
        """Return the survivors' shares, of each secret as many as are needed. [13]"""
        shares = Shares(self._members, listed.survivors, self._tolerance)

        def take(hospital: str, reply: Reply) -> bool:
            if reply.header.kind == "revealed":
                given = reply.header.shares
                revealed = {name: bytes.fromhex(share) for name, share in given.items()}
                for dealer in shares.add(hospital, revealed):
                    log.warning(f"{hospital} revealed a wrong share of {dealer}")
            return shares.are_enough

        header = listed.model_copy(update={"kind": "reveal", "signatures": signatures})
        ask(header, listed.survivors, take)
        return shares
