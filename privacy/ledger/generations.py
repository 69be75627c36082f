"""Generations of a population: a life budget for the patients of each approval.

A budget belongs to a patient. A ``reserve`` row opens a generation, whose number is the row's; a
patient belongs to the generation of the row in whose transaction this site first froze their
records. Each generation has the whole life budget (ε, δ, α, R) of its population. A study is
charged to the generations that have room for it, and no patient of another one takes part.

**Guarantee.** Unit: a patient, as one id of one population. Adjacency: one patient added to the
hospital's source or removed from it: in one world x is there, from any time until any time, and in
the other x never is. All releases of this ledger together, whoever chooses the studies and whatever
they saw before, are (ε, δ)-differentially private. (Two worlds in which x comes at different times
differ by two such steps, so by twice the Rényi divergence at most.)

*Proof.* Let x be the patient. Fix everything that the world saw before an approval: all rows and
releases, and the steward's decisions, which are outside the guarantee.

1. x's generation G is the number of a row. It follows from when x's own records were there and from
   which approvals were made. The other patients' generations follow from their own records and the
   same approvals. So x moves no other patient.
2. A row names the generations that it charges. They follow from costs in earlier rows, never from a
   count of patients, so a row is the same in both worlds.
3. A release of a study that is not charged to G, on x's side of the split, reads no record of x. It
   has the same distribution in both worlds: divergence 0. Any other release has a Rényi divergence
   of at most its charge at order α (``flo.privacy.mechanisms``).
4. Each row was accepted only if the charges to G, on x's side, stayed at R or below. So the sum of
   the divergences is at most R on every path, and adaptive composition with a Rényi filter
   (Feldman, Zrnic 2021, Thm 4.3) bounds the divergence of all releases by R at order α, which
   implies (ε, δ) (``flo.privacy.accounting.life_budget``). It holds for any x, so for each
   generation: the generations compose in parallel (Lécuyer et al. 2019, "Privacy accounting and
   quality control in the Sage differentially private ML platform"). ∎

*What numbers show.* An observer of rows learns which approvals a hospital made, as before, and no
more: a generation is opened by every approval, whether or not it has patients, and no row says how
many it has.

*Patients who leave.* An opt-out or an erasure ends x's part in later releases. x keeps the
generation, so one who comes back does not get another life.

*Generation 0* is of all patients whose birth this ledger did not record: those whom an earlier
version froze or a study of schema 1 to 3 did, and after a restore every id that is unknown, as lost
rows may have frozen it. It exists from the first such row on. Whatever can have touched its
patients was charged to it: rows without ``generations`` are charged to all that exist, and lost
approvals are such rows. After a restore, an id is born anew only if the steward signed that its
first record is later than the recovery.

*Lost approvals* are charged to every generation at no more than what was left there, because the
site's own gate accepted them. The exact path is unknown; R still bounds it. So are approvals that
were open when rows were lost: the rows may be of another approval, which nobody shows.

*Several populations* have a budget each: an id that the ledger knows from one is refused in
another. After a restore it may not know ids of lost rows, so the guarantee is for one population.

What the proof needs and rows cannot show: that one person has one id and keeps it
(``flo.clients.patients.id_continuity``), and that the site's table of generations is the one that
rows name by digest. The ledger checks the latter whenever it is opened.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flo.documents import canonical
from flo.errors import TrustError
from flo.privacy.accounting.life_budget import SUB_LEDGERS

UNRECORDED = 0  # the generation of patients whose birth this ledger did not record


@dataclass(frozen=True)
class LaterPatients:
    """Keyed hashes of ids whose first record is later than a recovery, as the steward signed.

    ``after``: hash of the recovery's last row; after a later recovery the list is void.
    """

    after: str
    patients: frozenset[str]


@dataclass(frozen=True)
class Participants:
    """Who takes part in a study.

    ``generations``: keyed hash -> generation, of all known patients of the population. ``charged``:
    sub-ledger -> generations whose patients take part.
    """

    population: str
    generations: Mapping[str, int]
    charged: Mapping[str, Collection[int]]

    def include(self, patient: str, sub_ledger: str) -> bool:
        """Return whether a patient on this side of the split takes part."""
        return self.generations.get(patient, -1) in self.charged[sub_ledger]


def named_in(public: dict[str, Any], known: Collection[int]) -> dict[str, tuple[int, ...]]:
    """Return sub-ledger -> earlier generations that a ``reserve`` row is charged to.

    Raises ValueError if it names one that is not known, or names them out of order.
    """
    named = public["generations"]
    if set(named) != set(SUB_LEDGERS):
        raise ValueError(f"generations must be named for {' and '.join(SUB_LEDGERS)}")
    for numbers in named.values():
        whole = isinstance(numbers, list) and all(type(number) is int for number in numbers)
        if not whole or sorted(set(numbers)) != numbers or not set(numbers) <= set(known):
            raise ValueError("generations must be known ones, in order and each once")
    if re.fullmatch("[0-9a-f]{64}", public["born"]) is None:
        raise ValueError("the digest of the patients who were born must be a SHA-256")
    return {sub_ledger: tuple(named[sub_ledger]) for sub_ledger in SUB_LEDGERS}


def digest_of(salt: str, patients: Sequence[tuple[str, str, int]]) -> str:
    """Return the salted SHA-256 of (population, keyed hash, generation) in order of hash.

    The salt, 16 bytes in hexadecimal, stays at the site: nobody else can test whether a row gave
    anybody a generation. Canonical JSON has one reading only, so no other table has this digest.

    Raises TrustError if the salt has another form.
    """
    if re.fullmatch("[0-9a-f]{32}", salt) is None:
        raise TrustError("the table of patients' generations was edited: a salt is damaged")
    listed = canonical.encode([list(patient) for patient in patients])
    return hashlib.sha256(bytes.fromhex(salt) + listed).hexdigest()
