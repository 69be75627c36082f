"""The roster: which key each hospital has, as a hash-chained log that every site witnesses.

It replaces one telephone call per pair of hospitals by one call that all of them join:

1. The coordinator adds an entry when a hospital enrols, enrols with another key, or leaves.
2. Each site fetches the log. It refuses a log that does not continue the one it fetched before, and
   one that holds another key for the site itself.
3. On the call somebody reads out the roster's digest D. Each steward enters it; if it is the digest
   of the log that their site fetched, they say: "the roster that was read out holds my key". If
   another digest is read out later, because a hospital has enrolled, everyone enters it and says it
   again: what was said about D is void.
4. Each steward marks the hospitals that they heard say so. These count as confirmed.
5. Each site signs whom its steward confirmed, and the coordinator relays this statement.
6. A partner that a steward did not hear counts as confirmed in a study if more than b of the
   study's other hospitals, each confirmed by this steward, signed that they confirmed it (b: the
   study's ``colluders``), and the roster has this key now. At most b of them lie, so at least one
   of them heard it.

D fixes every entry, because SHA-256 is collision-resistant. So an honest hospital that says 3 has
its own key under its own name in the log of everyone whose site fetched D. In 3 nobody speaks for
another hospital, so a hospital that lies can forge no other hospital's key.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from flo.documents import canonical
from flo.documents.document import Document
from flo.errors import TrustError
from flo.keys.claims import LARGEST_COUNT, Claim, Digest
from flo.keys.identity import Identity
from flo.study.terms import Identifier

MOST_ENTRIES = 10_000
_START = "0" * 64  # before the first entry
_PURPOSE = "roster"
_TIME = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00$"


class RosterEntry(Document):
    """``hospital`` joined with the key of this fingerprint, or left.

    ``previous``: digest of the entry before, or 64 zeros. ``time``: ISO 8601 in UTC to the
    millisecond. Other forms are refused, so that a forger of digests has little to vary.
    """

    previous: Digest
    event: Literal["joined", "left"]
    hospital: Identifier
    fingerprint: Digest
    time: Annotated[str, StringConstraints(pattern=_TIME)]

    @property
    def digest(self) -> str:
        """SHA-256 of the entry's canonical bytes, hexadecimal."""
        return canonical.digest(self.to_bytes())


class Roster(Document):
    """The log from its first entry on. Two hospitals never have the same key at a time."""

    entries: Annotated[tuple[RosterEntry, ...], Field(max_length=MOST_ENTRIES)] = ()

    @model_validator(mode="after")
    def _is_a_chain(self) -> Roster:
        previous, keys, used = _START, dict[str, str](), set[str]()
        for number, entry in enumerate(self.entries, 1):
            if entry.previous != previous:
                raise ValueError(f"entry {number} does not follow the entry before it")
            if entry.event == "left":
                if keys.pop(entry.hospital, None) != entry.fingerprint:
                    raise ValueError(f"entry {number}: {entry.hospital} leaves without this key")
                used.discard(entry.fingerprint)
            elif entry.fingerprint in used:
                raise ValueError(f"entry {number}: the key of {entry.hospital} is in use already")
            else:
                used.discard(keys.get(entry.hospital, ""))
                used.add(entry.fingerprint)
                keys[entry.hospital] = entry.fingerprint
            previous = entry.digest
        return self

    @property
    def digest(self) -> str:
        """D: the digest of the last entry, which fixes all entries."""
        return self.entries[-1].digest if self.entries else _START

    @property
    def keys(self) -> dict[str, str]:
        """Hospital -> fingerprint of its key, for the hospitals that have not left."""
        return self.keys_at({self.digest}).get(self.digest, {})

    @property
    def replaced(self) -> set[str]:
        """Hospitals that have another key than when they first joined."""
        first = dict[str, str]()
        for entry in self.entries:
            first.setdefault(entry.hospital, entry.fingerprint)
        return {name for name, key in self.keys.items() if first[name] != key}

    def continues(self, earlier: Roster) -> bool:
        """Return whether this is ``earlier``, perhaps with more entries."""
        return self.entries[: len(earlier.entries)] == earlier.entries

    def keys_at(self, digests: Collection[str]) -> dict[str, dict[str, str]]:
        """Return ``keys`` as they were when the roster had these digests; without other digests."""
        keys, found = dict[str, str](), dict[str, dict[str, str]]()
        for entry in self.entries:
            if entry.event == "joined":
                keys[entry.hospital] = entry.fingerprint
            else:
                del keys[entry.hospital]
            if entry.digest in digests:
                found[entry.digest] = dict(keys)
        return found

    def joined(self, hospital: str, fingerprint: str, time: str) -> RosterEntry:
        """Return the entry to add for a hospital that enrols, perhaps with another key."""
        return self._next("joined", hospital, fingerprint, time)

    def left(self, hospital: str, time: str) -> RosterEntry:
        """Return the entry to add for a hospital that leaves."""
        return self._next("left", hospital, self.keys[hospital], time)

    def _next(
        self, event: Literal["joined", "left"], hospital: str, fingerprint: str, time: str
    ) -> RosterEntry:
        return RosterEntry(
            previous=self.digest, event=event, hospital=hospital, fingerprint=fingerprint, time=time
        )


class RosterStatement(Claim):
    """A hospital's signed statement that its steward confirmed these hospitals' keys in roster D.

    ``confirmed``: hospitals that the steward heard or whose fingerprints they compared, never those
    that count because others confirmed them; sorted. ``number``: milliseconds since 1970; of two
    statements of one hospital the one with the higher number counts, so an older one cannot be
    shown again.
    """

    hospital: Identifier
    number: Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
    roster: Digest
    confirmed: Annotated[tuple[Identifier, ...], Field(max_length=MOST_ENTRIES)]

    @field_validator("confirmed")
    @classmethod
    def _each_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if list(names) != sorted(set(names)):
            raise ValueError("the hospitals are not sorted, or one appears twice")
        return names

    @classmethod
    def signed(
        cls, identity: Identity, hospital: str, number: int, roster: str, confirmed: Iterable[str]
    ) -> RosterStatement:
        """Sign the statement with the hospital's identity key."""
        names = tuple(sorted(set(confirmed)))
        return cls(
            hospital=hospital,
            number=number,
            roster=roster,
            confirmed=names,
            public=identity.public.hex(),
            signature=identity.sign(_PURPOSE, _statement(hospital, number, roster, names)),
        )

    def check(self, signer: str) -> None:
        """Raise TrustError unless the key of fingerprint ``signer`` signed this statement."""
        statement = _statement(self.hospital, self.number, self.roster, self.confirmed)
        self._check(signer, _PURPOSE, statement)


class WitnessedRoster(Document):
    """The log and each hospital's newest statement, as coordinator and sites store them."""

    schema_version: Literal[1] = 1
    roster: Roster = Roster()
    statements: Annotated[tuple[RosterStatement, ...], Field(max_length=MOST_ENTRIES)] = ()

    @field_validator("statements")
    @classmethod
    def _one_of_each(cls, statements: tuple[RosterStatement, ...]) -> tuple[RosterStatement, ...]:
        if len({one.hospital for one in statements}) != len(statements):
            raise ValueError("a hospital has two statements")
        return statements

    @property
    def digest(self) -> str:
        """SHA-256 of log and statements: whether there is anything new."""
        return canonical.digest(self.to_bytes())

    def statement_of(self, hospital: str) -> RosterStatement | None:
        """Return the newest statement of a hospital."""
        return next((one for one in self.statements if one.hospital == hospital), None)

    def followed_by(self, shown: WitnessedRoster) -> WitnessedRoster:
        """Return ``shown`` with, for each hospital, the newer of its and our statements.

        Statements that the hospital's present key did not sign count for nothing, so they are left
        out.
        """
        keys, newest = shown.roster.keys, dict[str, RosterStatement]()
        known = [one for one in self.statements if keys.get(one.hospital) == one.fingerprint]
        newest.update({one.hospital: one for one in known})
        for one in shown.statements:
            ours = newest.get(one.hospital)
            newer = ours is None or one.number > ours.number
            if newer and _is_valid(one, keys.get(one.hospital, "")):
                newest[one.hospital] = one
        return WitnessedRoster(
            roster=shown.roster, statements=tuple(newest[name] for name in sorted(newest))
        )

    def vouchers(self, trusted: Mapping[str, str]) -> Vouchers:
        """Return who signed whose key, of the keys that the roster has now. [6]

        ``trusted``: hospital -> fingerprint, as this site's steward heard or compared them. Only
        statements under these keys count. Their signatures were checked by ``followed_by``.
        """
        counted = [one for one in self.statements if one.fingerprint == trusted.get(one.hospital)]
        now, then = self.roster.keys, self.roster.keys_at({one.roster for one in counted})
        found = dict[tuple[str, str], set[str]]()
        for statement in counted:
            keys = then.get(statement.roster, {})
            for name in statement.confirmed:
                if name in keys and keys[name] == now.get(name) and name != statement.hospital:
                    found.setdefault((name, keys[name]), set()).add(statement.hospital)
        elsewhere = tuple(one.hospital for one in counted if one.roster not in then)
        return Vouchers(found, elsewhere)


@dataclass(frozen=True)
class Vouchers:
    """``by_key``: (hospital, fingerprint) -> the trusted hospitals that confirmed this key.

    ``elsewhere``: trusted hospitals that signed a roster which ours never was. Either the
    coordinator showed them another one, or they lie; what they signed does not count.
    """

    by_key: Mapping[tuple[str, str], Collection[str]]
    elsewhere: tuple[str, ...]


def _is_valid(statement: RosterStatement, signer: str) -> bool:
    try:
        statement.check(signer)
    except TrustError:
        return False
    return True


def _statement(hospital: str, number: int, roster: str, confirmed: Iterable[str]) -> bytes:
    return canonical.encode(
        {"hospital": hospital, "number": number, "roster": roster, "confirmed": list(confirmed)}
    )
