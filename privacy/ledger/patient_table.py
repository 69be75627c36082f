"""The table of a ledger's patients: who is in which generation, as the rows name it by digest.

``flo.privacy.ledger.generations`` has the rules and the proof.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from flo.errors import DataError, TrustError
from flo.keys.identity import Identity
from flo.privacy.ledger.generations import UNRECORDED, LaterPatients, Participants, digest_of
from flo.privacy.ledger.signed_rows import SignedRows


class PatientTable(SignedRows):
    """Signed rows, and the table of patients beside them."""

    def __init__(self, path: Path, identity: Identity) -> None:
        """Open (or create) the ledger at ``path``, and check its rows and its table.

        Raises:
            TrustError: as ``SignedRows``, or a patient was added to the table, removed from it, or
                moved to another generation.
        """
        super().__init__(path, identity)
        try:
            self._check_generations()
        except BaseException:  # also on interrupt: the file must not stay open
            self.close()
            raise

    def known_patients(self, population: str) -> set[str]:
        """Return keyed hashes of all patients whom this ledger ever froze."""
        return set(self._file.patients(population))

    def generation_sizes(self, population: str) -> Counter[int]:
        """Return how many known patients each generation has; for the steward's eyes."""
        return Counter(number or UNRECORDED for number in self._file.patients(population).values())

    def participants(self, reservation: int) -> Participants:
        """Return which known patients take part in a study that was reserved."""
        self._catch_up()
        return self._participants(reservation)

    def _participants(self, reservation: int) -> Participants:
        held = self._balance.reservations[reservation]
        known = self._file.patients(held.population)
        numbers = {one: UNRECORDED if at is None else at for one, at in known.items()}
        return Participants(held.population, numbers, held.generations)

    def recovery(self) -> str | None:
        """Return the hash of the last row of a recovery; None if there was none."""
        number = self.balance().restored
        return self._file.hash_at(number) if number else None

    def present_before(self, population: str) -> set[str]:
        """Return the patients who were in the data at the last approval; empty if not known."""
        return self._file.present(population)

    def _give_generations(
        self,
        population: str,
        patients: Collection[str],
        later: LaterPatients | None,
        *,
        opens: bool,
    ) -> str:
        """Give a generation to patients who have none; return the digest for the next row.

        ``opens``: whether that row opens one for those who are new; else they are UNRECORDED.
        """
        known, row = self._file.patients(population), self._balance.last + 1
        self._refuse_shared(population, patients)
        recovery = self.recovery()
        anew: Collection[str] = ()
        if later is not None and recovery is not None and later.after == recovery:
            anew = later.patients
        born = {one: UNRECORDED for one, number in known.items() if number is None}
        for one in set(patients) - set(known):
            is_new = opens and (recovery is None or one in anew)
            born[one] = row if is_new else UNRECORDED
        salt, ordered = os.urandom(16).hex(), sorted(born.items())
        self._file.add_generation(row, population, salt, ordered)
        if opens:
            self._file.refuse_older_versions()
        return digest_of(salt, [(population, one, number) for one, number in ordered])

    def _refuse_shared(self, population: str, hashes: Collection[str]) -> None:
        overlap = self._file.add_patients(population, hashes)
        if overlap:
            raise DataError(
                f"{overlap} patients of population {population!r} are also in another population "
                "of this site; a patient has one budget",
                hint="put all files that may hold the same patients into one population",
            )

    def _check_generations(self) -> None:
        """Check the table of patients against the digests in the rows.

        Raises:
            TrustError: a patient was added to it, removed from it, or moved to another generation.
        """
        with self._file.reading():  # rows and table of one moment
            self._catch_up()
            found, patients = dict[int, str](), list[tuple[str, str]]()
            for row, salt, who in self._file.generations():
                found[row] = digest_of(salt, who)
                patients += [(population, patient) for population, patient, _ in who]
        if found != self._born or len(set(patients)) != len(patients):
            raise TrustError(
                "the table of patients' generations was edited: it differs from the ledger's rows",
                hint="restore the newest copy of the ledger",
            )
