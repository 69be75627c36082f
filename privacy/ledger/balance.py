"""Sum of a ledger's rows: what was reserved, released, settled and lost, and what remains."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any

from pydantic import ValidationError

from flo.errors import MessageError, TrustError
from flo.keys.claims import LedgerHead
from flo.privacy.accounting.life_budget import CHARGES, SUB_LEDGERS, LifetimeBudget
from flo.privacy.ledger.generations import UNRECORDED, named_in
from flo.privacy.ledger.reservation import Reservation, Reserved
from flo.privacy.ledger.rows import LedgerRow, count_in
from flo.privacy.mechanisms.mechanisms import Mechanism, from_document
from flo.study.terms import largest_delta


@dataclass(frozen=True)
class LostRows:
    """Rows ``first`` to ``head.sequence``, which existed and are not in the restored ledger."""

    first: int
    head: LedgerHead


@dataclass
class Balance:
    """Sum of all rows: populations with their life budgets, reservations by row number.

    A cost is that of one generation of a population; without a generation, of the one that has
    spent most. ``opened``: population -> its numbered generations, in order.

    ``restored``: number of the last row of a recovery, or 0. ``just_restored``: whether lost
    approvals may follow, which are counted at once. ``lost``: rows that a restored ledger
    does not have. ``lost_approvals``: population -> last row that charged every generation before
    it with approvals that lost rows may be of. ``exhausted``: population -> row that took all
    budget of the generations before it. ``last``: number of the last row. ``unaccounted_rows``:
    lost rows beyond those that the charged studies can have caused. While it is above 0 and a
    population is not exhausted, only a recovery's rows are accepted; the last of them must end
    this state.
    """

    lives: dict[str, LifetimeBudget] = field(default_factory=dict)
    reservations: dict[int, Reservation] = field(default_factory=dict)
    opened: dict[str, list[int]] = field(default_factory=dict)
    restored: int = 0
    just_restored: bool = False
    lost: list[LostRows] = field(default_factory=list)
    lost_approvals: dict[str, int] = field(default_factory=dict)
    exhausted: dict[str, int] = field(default_factory=dict)
    last: int = 0
    unaccounted_rows: int = 0
    _counted: defaultdict[tuple[str, str, int], Counter[Mechanism]] = field(
        default_factory=lambda: defaultdict(Counter), compare=False, repr=False
    )

    def add(self, row: LedgerRow) -> None:
        """Add one more row.

        Raises:
            TrustError: it breaks a rule: a birth with more than its size allows, a reservation
                beyond the life budget, a release beyond or after its reservation, a repeat of other
                bits.
        """
        try:
            kind = row.public["kind"]
            if self.is_recovering and kind not in ("reserve", "restored"):
                raise ValueError("lost rows that the charged studies do not account for")
            _APPLY[kind](self, row.sequence, row.public)
            self.just_restored = kind == "restored" or row.public.get("lost") is True
        except (  # another site's row may have any shape
            KeyError,
            TypeError,
            ValueError,
            ArithmeticError,
            AttributeError,
            MessageError,
        ) as error:
            raise TrustError(f"ledger row {row.sequence} breaks a rule: {error}") from error
        self.last = row.sequence

    def _apply_birth(self, sequence: int, public: dict[str, Any]) -> None:
        life = LifetimeBudget.create(public["epsilon"], public["delta"])
        if public["population"] in self.lives:
            raise ValueError("the population is already registered")
        if self.lost:
            raise ValueError("rows were lost, and they may already register this population")
        if public["delta"] > largest_delta(public["declared_size"]):
            raise ValueError("delta is larger than the rule for the declared size allows")
        if life.order != public["order"] or not math.isclose(
            life.renyi, public["renyi"], rel_tol=1e-9
        ):
            raise ValueError("the Rényi budget does not follow from epsilon and delta")
        self.lives[public["population"]] = life
        self.opened[public["population"]] = [UNRECORDED] if self.restored else []

    def _apply_reserve(self, sequence: int, public: dict[str, Any]) -> None:
        population = public["population"]
        parts = {
            purpose: Reserved(
                from_document(part["mechanism"]), part["mechanism"], count_in(part["releases"])
            )
            for purpose, part in public["parts"].items()
        }
        if not parts or not set(parts) <= set(CHARGES):
            raise ValueError(f"a reservation must be for one or more of {', '.join(CHARGES)}")
        opens, lost, known = "generations" in public, "lost" in public, self.generations(population)
        if lost and (public["lost"] is not True or opens or not self.just_restored):
            raise ValueError("only a recovery counts lost approvals, charged to all generations")
        if opens and self.is_recovering:
            raise ValueError("while lost rows are not accounted for, no generation may be opened")
        if opens:
            charged = named_in(public, known)
        else:
            self._open_unrecorded(population)
            charged = dict.fromkeys(SUB_LEDGERS, self.generations(population))
        reservation = Reservation(population, parts, {}, public["time"])
        life = self.lives[population]
        for sub_ledger, numbers in charged.items():
            cost = reservation.cost(sub_ledger, life.order)
            left = [self.remaining(population, sub_ledger, number) for number in numbers]
            # in this form NaN does not fit either
            if not lost and not cost <= min(left, default=life.renyi):
                raise ValueError("the reservation exceeds what remains of the life budget")
            reservation.generations[sub_ledger] = frozenset((*numbers, *((sequence,) * opens)))
            for number in reservation.generations[sub_ledger]:
                counts = reservation.mechanisms(sub_ledger, reservation.counted)
                self._counted[sub_ledger, population, number].update(counts)
        if lost:
            reservation.take_all()
            self.unaccounted_rows -= reservation.most_rows
            self.lost_approvals[population] = sequence
        if opens:
            self.opened[population].append(sequence)
        self.reservations[sequence] = reservation

    def _charge_everywhere(self, reservation: Reservation) -> None:
        """Charge an open approval to every generation: rows that it explains may be another's."""
        population = reservation.population
        for sub_ledger, charged in reservation.generations.items():
            counts = reservation.mechanisms(sub_ledger, reservation.counted)
            for number in set(self.opened[population]) - charged:
                self._counted[sub_ledger, population, number].update(counts)
            reservation.generations[sub_ledger] = frozenset(self.opened[population])

    def _open_unrecorded(self, population: str) -> None:
        if UNRECORDED not in self.opened[population]:
            self.opened[population].insert(0, UNRECORDED)

    def _apply_release(self, sequence: int, public: dict[str, Any]) -> None:
        reservation = self._open(public)
        purpose = public["purpose"]
        if public["mechanism"] != reservation.parts[purpose].document:
            raise ValueError("the mechanism differs from the reserved one")
        if reservation.remaining(purpose) < 1:
            raise ValueError("its reservation has no release left")
        reservation.released[purpose] += 1
        reservation.replies[sequence] = (purpose, public["reply"])

    def _apply_repeat(self, sequence: int, public: dict[str, Any]) -> None:
        reservation = self._open(public)
        if reservation.replies.get(public["of"]) != (public["purpose"], public["reply"]):
            raise ValueError("a repeat must name the purpose and reply of an earlier release")

    def _apply_settle(self, sequence: int, public: dict[str, Any]) -> None:
        held = self._open(public)
        held.settled = True
        for sub_ledger, numbers in held.generations.items():
            free = held.mechanisms(sub_ledger, held.unused)
            for number in numbers:
                self._counted[sub_ledger, held.population, number].subtract(free)

    def _apply_restored(self, sequence: int, public: dict[str, Any]) -> None:
        head, exhausted = lost_head(public), public["exhausted"]
        if not isinstance(exhausted, list) or not all(isinstance(name, str) for name in exhausted):
            raise ValueError("the exhausted populations must be a list of names")
        if head is not None:
            if not self.last < head.sequence == sequence - 1:
                raise ValueError("the lost rows that it names are not missing from this ledger")
            self.lost.append(LostRows(self.last + 1, head))
            # Minus 1: an unknown release takes two rows, its own and its reservation's.
            # max: a surplus from an earlier loss explains no later one.
            self.unaccounted_rows = max(0, self.unaccounted_rows) + head.sequence - self.last - 1
        self.restored = sequence
        for population in self.lives:
            self._open_unrecorded(population)
        for reservation in self.reservations.values():
            if not reservation.settled:
                self.unaccounted_rows -= reservation.most_rows
                if head is not None:
                    self._charge_everywhere(reservation)
                    self.lost_approvals[reservation.population] = sequence
            reservation.take_all()
        self.exhausted.update(dict.fromkeys(exhausted, sequence))
        if self._nothing_left:  # all that the lost rows may have spent
            self.unaccounted_rows = min(self.unaccounted_rows, 0)
        if head is None and self.is_recovering:
            raise ValueError(
                "lost rows that the charged studies do not account for, and a population that is "
                "not exhausted"
            )

    @property
    def is_recovering(self) -> bool:
        """Whether lost rows are still unaccounted for."""
        return self.unaccounted_rows > 0 and not self._nothing_left

    @property
    def _nothing_left(self) -> bool:
        """Whether every generation of every population was exhausted."""
        return all(
            self.exhausted.get(population, 0) > max(numbers, default=0)
            for population, numbers in self.opened.items()
        )

    def _open(self, public: dict[str, Any]) -> Reservation:
        reservation = self.reservations.get(public["reservation"])
        if reservation is None:
            raise ValueError("it names no reservation of this ledger")
        if reservation.settled:
            raise ValueError("its reservation is already settled")
        if reservation.population != public["population"]:
            raise ValueError("its population differs from the reservation's")
        return reservation

    def is_lost(self, seen: LedgerHead) -> bool:
        """Return whether ``seen`` is a head among the lost rows, which were charged in full."""
        return any(
            lost.first <= seen.sequence < lost.head.sequence
            or (seen.sequence, seen.hash) == (lost.head.sequence, lost.head.hash)
            for lost in self.lost
        )

    def generations(self, population: str) -> tuple[int, ...]:
        """Return the numbers of the generations that exist, in order."""
        return tuple(self.opened[population])

    def committed(self, population: str, sub_ledger: str, generation: int | None = None) -> float:
        """Return the Rényi cost, reserved + released, of a population's sub-ledger at its order."""
        if generation is None:
            known = self.opened[population] or (UNRECORDED,)
            return max(self.committed(population, sub_ledger, one) for one in known)
        return self._limited(
            population, generation, self._counted[sub_ledger, population, generation]
        )

    def charged(self, population: str, sub_ledger: str, generation: int | None = None) -> float:
        """Return the Rényi cost of all that counts as released, at the population's order."""
        if generation is None:
            known = self.opened[population] or (UNRECORDED,)
            return max(self.charged(population, sub_ledger, one) for one in known)
        counts: Counter[Mechanism] = Counter()
        for held in self._charging(population, sub_ledger, generation):
            counts.update(held.mechanisms(sub_ledger, held.made))
        return self._limited(population, generation, counts)

    def remaining(self, population: str, sub_ledger: str, generation: int | None = None) -> float:
        """Return the Rényi cost that still fits into a population's sub-ledger; about 0 if none."""
        return self.lives[population].renyi - self.committed(population, sub_ledger, generation)

    def committed_since(
        self, population: str, sub_ledger: str, generation: int, since: datetime, order: int
    ) -> float:
        """Return the Rényi cost at ``order`` of a generation's approvals since a time.

        It is the cost of all reserved releases, or of the released ones if settled.
        """
        return math.fsum(
            held.cost(sub_ledger, order)
            for held in self._charging(population, sub_ledger, generation)
            if datetime.fromisoformat(held.time) >= since
        )

    def _charging(self, population: str, sub_ledger: str, generation: int) -> Iterator[Reservation]:
        for held in self.reservations.values():
            if held.population == population and generation in held.generations[sub_ledger]:
                yield held

    def _limited(self, population: str, generation: int, counts: Counter[Mechanism]) -> float:
        """Sum a generation's cost exactly (fsum), with equal mechanisms merged before.

        It is R at most where approvals were lost, which the site's own gate had accepted, and R at
        least if the generation was exhausted.
        """
        life = self.lives[population]
        cost = math.fsum(_rdp(mechanism, life.order) * n for mechanism, n in counts.items())
        if generation < self.lost_approvals.get(population, 0):
            cost = min(cost, life.renyi)
        exhausted = generation < self.exhausted.get(population, 0)
        return max(cost, life.renyi) if exhausted else cost


@lru_cache(maxsize=4096)
def _rdp(mechanism: Mechanism, order: int) -> float:
    return mechanism.rdp(order)


_APPLY = {
    "birth": Balance._apply_birth,
    "reserve": Balance._apply_reserve,
    "release": Balance._apply_release,
    "repeat": Balance._apply_repeat,
    "settle": Balance._apply_settle,
    "restored": Balance._apply_restored,
}


def lost_head(public: dict[str, Any]) -> LedgerHead | None:
    """Return the lost head that a ``restored`` row names, or None.

    Raises:
        TrustError: the named head is malformed.
    """
    named = public.get("head") if public.get("kind") == "restored" else None
    if named is None:
        return None
    try:
        return LedgerHead.model_validate(named)
    except ValidationError as error:
        raise TrustError("a restored ledger names a malformed head of its lost rows") from error


def number_after(last: int, public: dict[str, Any]) -> int:
    """Return the number of the row after row ``last``; it skips the numbers of lost rows."""
    head = lost_head(public)
    return max(last, head.sequence if head else 0) + 1
