"""Ledger rows as values: what one says, how it is chained, and what all of them add up to.

Rules only; ``flo.privacy.ledger`` keeps the rows. A row has a *public* part (kind, mechanism,
counts: enough to recompute every cost) and a *private* part (which study, run and round), committed
to with a salt. The chain hash covers the public part and the commitment, so an extract can hide
other studies' names and still be recomputed from the first row to the last.

    hash = SHA-256(previous hash, SHA-256(public), SHA-256(salt, private))

Kinds: ``birth`` (a population and its life budget), ``reserve`` (an approval), ``release`` (one
attempt, charged), ``repeat`` (the same noisy bits sent again, charge 0), ``settle`` (a study ended;
what it did not use is released).
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

from flo import canonical
from flo.errors import TrustError
from flo.privacy.life import LifeBudget
from flo.privacy.mechanisms import NoisySum, from_document

ZERO_HASH = "0" * 64
KINDS = ("birth", "reserve", "release", "repeat", "settle")
PURPOSES = ("training", "evaluation")


@dataclass(frozen=True)
class Row:
    """One entry. ``private`` and ``salt`` are None where an extract hides them."""

    sequence: int
    public: dict[str, Any]
    private: dict[str, Any] | None
    salt: str | None
    commitment: str
    hash: str
    signature: str

    @classmethod
    def chained(
        cls,
        previous: str,
        sequence: int,
        public: dict[str, Any],
        private: dict[str, Any],
        salt: str,
    ) -> Row:
        """A row that follows ``previous``; the caller signs it."""
        commitment = _commit(private, salt)
        return cls(
            sequence, public, private, salt, commitment, _chain(previous, public, commitment), ""
        )

    def hidden(self) -> Row:
        """The same row without its private part."""
        return replace(self, private=None, salt=None)

    def check(self, previous: str, sequence: int) -> None:
        """Raises TrustError unless this row follows ``previous`` at ``sequence``."""
        if self.sequence != sequence:
            raise TrustError(f"ledger row {sequence} is missing or out of order")
        if self.private is not None and _commit(self.private, self.salt or "") != self.commitment:
            raise TrustError(f"ledger row {sequence} was edited (private part)")
        if _chain(previous, self.public, self.commitment) != self.hash:
            raise TrustError(f"ledger row {sequence} was edited, or a row before it is missing")
        if self.public.get("kind") not in KINDS:
            raise TrustError(f"ledger row {sequence} has an unknown kind")

    def as_document(self) -> dict[str, Any]:
        return {
            "sequence": self.sequence,
            "public": self.public,
            "private": self.private,
            "salt": self.salt,
            "commitment": self.commitment,
            "hash": self.hash,
            "signature": self.signature,
        }


@dataclass
class Reservation:
    """What one approval set aside and what was released under it."""

    population: str
    parts: dict[str, tuple[NoisySum, int]]
    released: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PURPOSES, 0))
    settled: bool = False

    def remaining(self, purpose: str) -> int:
        return 0 if self.settled else self.parts[purpose][1] - self.released[purpose]

    def counted(self, purpose: str) -> int:
        """Releases that count against the life budget: all reserved until settled."""
        reserved, released = self.parts[purpose][1], self.released[purpose]
        return released if self.settled else max(reserved, released)


@dataclass
class Balance:
    """All rows added up: populations with their life budgets, reservations by row number."""

    lives: dict[str, LifeBudget] = field(default_factory=dict)
    reservations: dict[int, Reservation] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        """Take one more row into account. Raises TrustError if it makes no sense here."""
        public = row.public
        try:
            if public["kind"] == "birth":
                life = LifeBudget.born(public["epsilon"], public["delta"])
                if public["population"] in self.lives or (life.order, life.renyi) != (
                    public["order"],
                    public["renyi"],
                ):
                    raise ValueError("birth")
                self.lives[public["population"]] = life
            elif public["kind"] == "reserve":
                if public["population"] not in self.lives:
                    raise ValueError("population")
                parts = {
                    purpose: (
                        from_document(public["parts"][purpose]["mechanism"]),
                        int(public["parts"][purpose]["releases"]),
                    )
                    for purpose in PURPOSES
                }
                self.reservations[row.sequence] = Reservation(public["population"], parts)
            elif public["kind"] == "release":
                reservation = self.reservations[public["reservation"]]
                if from_document(public["mechanism"]) != reservation.parts[public["purpose"]][0]:
                    raise ValueError("mechanism")
                reservation.released[public["purpose"]] += 1
            elif public["kind"] == "settle":
                self.reservations[public["reservation"]].settled = True
        except (KeyError, TypeError, ValueError) as error:
            raise TrustError(f"ledger row {row.sequence} makes no sense here: {error}") from error

    def committed(self, population: str, purpose: str) -> float:
        """Rényi cost, reserved + charged, of a population's sub-ledger at its order.

        Equal mechanisms are merged before they are added, and the sum is exact (fsum).
        """
        order = self.lives[population].order
        counts: Counter[NoisySum] = Counter()
        for reservation in self.reservations.values():
            if reservation.population == population:
                counts[reservation.parts[purpose][0]] += reservation.counted(purpose)
        return math.fsum(mechanism.rdp(order) * n for mechanism, n in counts.items())

    def charged(self, population: str, purpose: str) -> float:
        """Rényi cost of what was really released, at the population's order."""
        order = self.lives[population].order
        return math.fsum(
            reservation.parts[purpose][0].rdp(order) * reservation.released[purpose]
            for reservation in self.reservations.values()
            if reservation.population == population
        )

    def remaining(self, population: str, purpose: str) -> float:
        return self.lives[population].renyi - self.committed(population, purpose)


def _commit(private: dict[str, Any], salt: str) -> str:
    return hashlib.sha256(bytes.fromhex(salt) + canonical.encode(private)).hexdigest()


def _chain(previous: str, public: dict[str, Any], commitment: str) -> str:
    inner = hashlib.sha256(canonical.encode(public)).digest()
    return hashlib.sha256(bytes.fromhex(previous) + inner + bytes.fromhex(commitment)).hexdigest()
