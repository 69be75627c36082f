"""Hospitals with real deals, keys, signatures and checks, and a coordinator that may lie to them.

What they upload has no numbers: only what the coordinator can open is asked.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, cast

from flo.clients.agent.masking import attempt_at
from flo.keys.claims import ListSignature
from flo.privacy.accounting.plan import Plan
from flo.privacy.secure_sum.survivors import statement
from flo.protocol.messages import RequestHeader, decode_request
from flo.study.document import Study
from flo.study.tolerance import Tolerance
from tests.clients.real_partners import Member, RealCompany
from tests.partners import partner
from tests.server.in_memory_run import Site, company_study

_NAMES = ("ash", "bay", "cedar", "doe", "elm", "fir", "gum", "hay", "ivy", "jay", "kea")


def _length(study: Study, asked: RequestHeader) -> int:
    return Plan.of(study).purpose(asked.purpose).mechanism.length


def _sets() -> defaultdict[int, set[str]]:
    return defaultdict(set)


@dataclass
class _Answering:
    """A site's real checks and deals, behind what a handler has: ``answer``."""

    site: Site

    def answer(self, data: bytes) -> bytes:
        return self.site.answer(decode_request(data))


@dataclass
class LightCompany(RealCompany):
    """``hospitals`` of which the last ``colluders`` tell the coordinator all that they hold."""

    def __post_init__(self) -> None:
        assert self.study.tolerance is not None
        self.tolerance: Tolerance = self.study.tolerance
        names = [hospital.id for hospital in self.study.hospitals]
        self.honest = names[: len(names) - self.tolerance.colluders]
        self.colluders = names[len(self.honest) :]
        # dealer -> which of its secrets -> who revealed a share of it
        self.revealed: defaultdict[str, defaultdict[int, set[str]]] = defaultdict(_sets)
        self.uploads: dict[str, RequestHeader] = {}  # what each honest hospital uploaded to

    @classmethod
    def of_size(cls, hospitals: int, colluders: int, dropouts: int) -> LightCompany:
        study = company_study(
            "distributed noise",
            _NAMES[:hospitals],
            schema_version=4,
            colluders=colluders,
            dropouts=dropouts,
        )
        sites = {name: _Answering(Site(study, name)) for name in _NAMES[:hospitals]}
        members = {
            name: Member(cast(Any, None), cast(Any, None), cast(Any, answering))
            for name, answering in sites.items()
        }
        company = cls(study, members)
        company.join()
        return company

    # -- what a lying coordinator may do ----------------------------------------------------------

    def upload(self, asked: RequestHeader, only: Collection[str] | None = None) -> None:
        """Ask the cohort to upload, or ``only`` some of it; colluders do whatever is useful."""
        for name in asked.cohort if only is None else only:
            if self.say(name, asked).header.kind == "release" and name in self.honest:
                self.uploads[name] = asked

    def sign(
        self, asked: RequestHeader, name: str, listed: Collection[str]
    ) -> ListSignature | None:
        """An honest hospital signs if it agrees; a colluder signs whatever it is given."""
        if name in self.colluders:
            attempt = attempt_at(self.study, asked, _length(self.study, asked))
            return ListSignature.signed(partner(name), statement(attempt, listed))
        return self.say(name, self.listed(asked, *listed)).header.signature

    def reveal(
        self,
        asked: RequestHeader,
        name: str,
        listed: Collection[str],
        signatures: Mapping[str, ListSignature],
    ) -> bool:
        """Note what an honest hospital reveals; return whether it does."""
        header = self.listed(asked, *listed, kind="reveal", signatures=dict(signatures))
        shares = self.say(name, header).header.shares
        level = self.tolerance.level(len(listed)) if shares else 0
        for dealer in shares:
            self.revealed[dealer][1 + level if dealer in listed else 0].add(name)
        return bool(shares)

    # -- what it then knows -----------------------------------------------------------------------

    def known(self, dealer: str) -> set[int]:
        """The dealt secrets that it can open: 0 is the key, 1 + level a seed."""
        needed = self.tolerance.threshold - self.tolerance.colluders
        return {place for place, by in self.revealed[dealer].items() if len(by) >= needed}

    def thinnest(self) -> Fraction | None:
        """The least honest noise of any sum that it can read, in units of σ*²; None if of none.

        A sum over some of the honest hospitals is readable if they uploaded to the same attempt,
        their self masks are open, and so is every pad that they share with the other honest members
        of its cohort: by the key of either.
        """
        keys = {name for name in self.honest if 0 in self.known(name)}
        seeds = {n: min(self.known(n) - {0}) for n in self.honest if self.known(n) - {0}}
        found = []
        for size in range(1, len(seeds) + 1):
            for chosen in itertools.combinations(seeds, size):
                attempts = [self.uploads.get(name) for name in chosen]
                if attempts[0] is None or any(other != attempts[0] for other in attempts):
                    continue
                rest = set(self.honest) & set(attempts[0].cohort) - set(chosen)
                if all(name in keys or other in keys for name in chosen for other in rest):
                    noise = sum(Fraction(1, self.tolerance.shares(seeds[n] - 1)) for n in chosen)
                    found.append(Fraction(noise))
        return min(found, default=None)
