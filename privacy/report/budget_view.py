"""A life budget as its steward sees it: by study, over time, and what remains.

All numbers are shares of the life budget of one population's sub-ledger, from the ledger's rows:
of one generation of patients, or of the one that spent most. Counts of patients are in wide bands,
because a decision that depended on an exact count would tell others about it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from flo.privacy.accounting.life_budget import CHARGES, SUB_LEDGERS, LifetimeBudget
from flo.privacy.ledger.balance import Balance
from flo.privacy.ledger.generations import UNRECORDED
from flo.privacy.ledger.rows import LedgerRow

_TYPICAL = (0.1, 0.3, 0.5)
_EDGES = (0, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000, 1_000_000)
NEW = "not seen before"
_NOTHING = 1e-3  # a share of the life budget that no useful study fits into


@dataclass(frozen=True)
class StudyUse:
    """One approval's use of the life budget, as shares by sub-ledger."""

    study: str
    approved: str
    settled: bool
    releases: dict[str, tuple[int, int]]  # purpose -> made, reserved
    spent: dict[str, float]
    reserved: dict[str, float]


@dataclass(frozen=True)
class Moment:
    """Shares at one time: released, and released or reserved."""

    time: str
    spent: dict[str, float]
    committed: dict[str, float]


@dataclass(frozen=True)
class GenerationUse:
    """One generation of patients: spent, and spent or reserved, as shares by sub-ledger.

    ``opened``: when and by which study. ``patients``: how many it has, in a wide band.
    """

    number: int
    opened: str
    patients: str
    spent: dict[str, float]
    committed: dict[str, float]


@dataclass(frozen=True)
class Room:
    """For a study of some ε: generations with room for it, and their patients in a wide band.

    ``fits_new``: whether it fits into the whole budget, which new patients have.
    """

    epsilon: float
    fits_new: bool
    generations: int
    patients: str


@dataclass(frozen=True)
class Affordable:
    """Remaining budget of a sub-ledger: the largest ε, and how many studies of typical ε fit."""

    largest_epsilon: float
    studies: dict[float, int]


def band(count: int) -> str:
    """Return a wide band that a number of patients lies in, in words."""
    for low, high in pairwise(_EDGES):
        if count < high:
            return f"{low:,} to {high - 1:,}" if low else f"fewer than {high}"
    return f"{_EDGES[-1]:,} or more"


def opened(rows: Iterable[LedgerRow]) -> dict[int, str]:
    """Return generation -> when it was opened and by which study; ``rows`` are the site's own."""
    found = {UNRECORDED: "before generations were recorded"}
    for row in rows:
        if row.public["kind"] == "reserve" and "generations" in row.public:
            study = row.private or {}
            name = f"{study.get('name', 'unnamed')}:{study.get('version', '?')}"
            found[row.sequence] = f"first in {name}, {row.public['time'][:10]}"
    return found


def by_generation(
    rows: Iterable[LedgerRow], balance: Balance, population: str, sizes: Mapping[int, int]
) -> list[GenerationUse]:
    """Return a population's generations in order; ``sizes``: patients of each."""
    life, names = balance.lives[population], opened(rows)

    def shares(cost: Callable[[str, str, int], float], number: int) -> dict[str, float]:
        return {s: life.share(cost(population, s, number)) for s in SUB_LEDGERS}

    return [
        GenerationUse(
            number,
            names[number],
            band(sizes.get(number, 0)),
            shares(balance.charged, number),
            shares(balance.committed, number),
        )
        for number in balance.generations(population)
    ]


def room(balance: Balance, population: str, sizes: Mapping[int, int], epsilon: float) -> Room:
    """Return who could take part in a full-batch study of that ε."""
    life = balance.lives[population]
    cost = life.cost_of(epsilon)
    if epsilon == life.epsilon:
        cost = min(cost, life.renyi)  # equal, up to rounding
    fit = [
        number
        for number in balance.generations(population)
        if all(cost <= balance.remaining(population, s, number) for s in SUB_LEDGERS)
    ]
    new = cost <= life.renyi
    return Room(epsilon, new, len(fit), band(sum(sizes.get(number, 0) for number in fit)))


def rooms(balance: Balance, population: str, sizes: Mapping[int, int]) -> list[Room]:
    """Return who could take part in studies of each typical ε, and of the whole life."""
    life = balance.lives[population].epsilon
    wanted = (*(epsilon for epsilon in _TYPICAL if epsilon < life), life)
    return [room(balance, population, sizes, epsilon) for epsilon in wanted]


def by_study(rows: Iterable[LedgerRow], balance: Balance, population: str) -> list[StudyUse]:
    """Return approvals in order; ``rows`` are the site's own, with their private parts."""
    life, uses = balance.lives[population], []
    for row in rows:
        held = balance.reservations.get(row.sequence)
        if held is None or held.population != population:
            continue
        spent, reserved = dict.fromkeys(SUB_LEDGERS, 0.0), dict.fromkeys(SUB_LEDGERS, 0.0)
        for purpose, part in held.parts.items():
            each = life.share(part.mechanism.rdp(life.order))
            for sub_ledger in CHARGES[purpose]:
                spent[sub_ledger] += each * held.released[purpose]
                reserved[sub_ledger] += each * (held.counted(purpose) - held.released[purpose])
        private = row.private or {}
        uses.append(
            StudyUse(
                f"{private.get('name', 'unnamed')} v{private.get('version', '?')}",
                row.public["time"],
                held.settled,
                {p: (held.released[p], held.parts[p].releases) for p in CHARGES if p in held.parts},
                spent,
                reserved,
            )
        )
    return uses


def over_time(rows: list[LedgerRow], population: str, points: int) -> list[Moment]:
    """Return up to ``points`` moments, evenly over the ledger's rows, always with the last."""
    step = max(1, -(-len(rows) // points))
    balance, moments = Balance(), []
    for number, row in enumerate(rows, start=1):
        balance.add(row)
        if population in balance.lives and (number % step == 0 or number == len(rows)):
            life = balance.lives[population]
            moments.append(
                Moment(
                    row.public["time"],
                    {s: life.share(balance.charged(population, s)) for s in SUB_LEDGERS},
                    {s: life.share(balance.committed(population, s)) for s in SUB_LEDGERS},
                )
            )
    return moments


def affordable(life: LifetimeBudget, remaining: float) -> Affordable:
    """Return what fits into ``remaining`` Rényi budget; costs of several studies add up."""
    usable = life.share(remaining) >= _NOTHING
    return Affordable(
        life.largest_epsilon(remaining) if usable else 0.0,
        {epsilon: max(0, int(remaining / life.cost_of(epsilon))) for epsilon in _TYPICAL},
    )
