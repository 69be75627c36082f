"""Hospitals' tables: invitations, enrolment, the roster, certificates, connections."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flo.documents import canonical
from flo.documents.document import parse
from flo.errors import TrustError
from flo.keys.roster import MOST_ENTRIES, Roster, RosterEntry, RosterStatement, WitnessedRoster
from flo.server.store.tables import Tables, now

_SELECT_MEMBER = (
    "SELECT id, public, fingerprint, serial, revoked, node, earlier, coalesce(certified, '')"
    " FROM hospitals"
)


@dataclass(frozen=True)
class Member:
    """An enrolled hospital.

    ``earlier``: serial number of the certificate before a renewal, until the new one is used.
    ``certified``: when the current one was issued; "" if FLO 0.4 or earlier issued it.
    """

    id: str
    public: bytes
    fingerprint: str
    serial: str
    revoked: bool
    node: int | None
    earlier: str | None = None
    certified: str = ""


class MemberTables(Tables):
    """The tables of invitations and hospitals."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        if self.keys() != self.roster().roster.keys:
            self._complete_roster()

    def add_invitation(self, serial: str, hospital: str) -> None:
        """Store a one-time invitation by its certificate's serial number."""
        self._write("INSERT INTO invitations (serial, hospital) VALUES (?, ?)", serial, hospital)

    def invited(self, serial: str, hospital: str) -> bool:
        """Return whether this invitation is for this hospital and unused."""
        found = self._one(
            "SELECT used FROM invitations WHERE serial = ? AND hospital = ?", serial, hospital
        )
        return found is not None and not found[0]

    def enrol(self, invitation: str, member: Member) -> bool:
        """Use up the invitation and store the hospital, atomically. Return False if it was used.

        All other invitations of the hospital become invalid, as do ledger heads by another key.

        Raises:
            TrustError: the key is enrolled for another hospital.
        """
        with self._transaction():
            if self._db.execute(
                "SELECT 1 FROM hospitals WHERE fingerprint = ? AND id != ?",
                (member.fingerprint, member.id),
            ).fetchone():
                raise TrustError("this key is enrolled for another hospital")
            used = self._db.execute(
                "UPDATE invitations SET used = 1 WHERE serial = ? AND hospital = ? AND used = 0",
                (invitation, member.id),
            )
            if used.rowcount != 1:
                return False
            self._end_invitations(member.id)
            self._db.execute(
                "INSERT INTO hospitals (id, public, fingerprint, serial, enrolled, certified)"
                " VALUES (?1, ?2, ?3, ?4, ?5, ?5) ON CONFLICT (id) DO"
                " UPDATE SET public = excluded.public, fingerprint = excluded.fingerprint,"
                " serial = excluded.serial, revoked = 0, node = NULL, enrolled = excluded.enrolled,"
                " certified = excluded.certified, earlier = NULL",
                (member.id, member.public, member.fingerprint, member.serial, now()),
            )
            self._db.execute(  # a new key starts a new ledger
                "DELETE FROM heads WHERE hospital = ? AND public != ?",
                (member.id, member.public.hex()),
            )
            self._add_to_roster(member.id, member.fingerprint)
        return True

    def renew(self, hospital: str, serial: str) -> None:
        """Store a renewed certificate; the earlier one stays valid until the new one is used."""
        self._write(
            "UPDATE hospitals SET earlier = coalesce(earlier, serial), serial = ?, certified = ?"
            " WHERE id = ?",
            serial,
            now(),
            hospital,
        )

    def drop_earlier(self, hospital: str) -> None:
        """Invalidate the certificate before a renewal: the renewed one is in use."""
        self._write("UPDATE hospitals SET earlier = NULL WHERE id = ?", hospital)

    def members(self) -> list[Member]:
        """Return all hospitals, including revoked ones, by id."""
        rows = self._all(_SELECT_MEMBER + " ORDER BY id")
        return [_member(row) for row in rows]

    def keys(self) -> dict[str, str]:
        """Return hospital id -> key fingerprint, for hospitals that are not revoked."""
        return {one.id: one.fingerprint for one in self.members() if not one.revoked}

    def member(self, hospital: str) -> Member | None:
        """Return a hospital, revoked or not; None if it is not enrolled."""
        row = self._one(_SELECT_MEMBER + " WHERE id = ?", hospital)
        return _member(row) if row else None

    def revoke(self, hospital: str) -> bool:
        """Refuse this hospital from its next request on. Return False if it is not enrolled.

        Earlier invitations become invalid, too: only a new one allows it to enrol again.
        """
        with self._transaction():
            self._end_invitations(hospital)
            changed = self._db.execute("UPDATE hospitals SET revoked = 1 WHERE id = ?", (hospital,))
            self._add_to_roster(hospital, None)
            return changed.rowcount == 1

    def roster(self) -> WitnessedRoster:
        """Return the roster, and the newest statement of each hospital on it."""
        with self._lock:
            entries = self._all("SELECT entry FROM roster ORDER BY number")
            statements = self._all("SELECT statement FROM roster_statements ORDER BY hospital")
        value = {
            "roster": {"entries": [_decode(row[0]) for row in entries]},
            "statements": [_decode(row[0]) for row in statements],
        }
        return parse(WitnessedRoster, value, "the coordinator's roster")

    def keep_statement(self, statement: RosterStatement) -> None:
        """Store a hospital's statement on the roster; it replaces its earlier one."""
        self._write(
            "INSERT OR REPLACE INTO roster_statements (hospital, statement) VALUES (?, ?)",
            statement.hospital,
            statement.to_bytes(),
        )

    def _complete_roster(self) -> None:
        """Enter what an earlier version of FLO did, which kept no roster."""
        with self._transaction():
            for hospital in self.roster().roster.keys.keys() - self.keys().keys():
                self._add_to_roster(hospital, None)
            rows = "SELECT id, fingerprint FROM hospitals WHERE NOT revoked ORDER BY enrolled, id"
            for hospital, fingerprint in self._db.execute(rows).fetchall():
                self._add_to_roster(hospital, fingerprint)

    def _add_to_roster(self, hospital: str, fingerprint: str | None) -> None:
        """Add that a hospital has this key, or has left (None), unless the roster says so."""
        roster = self.roster().roster
        now_has = roster.keys.get(hospital)
        if fingerprint == now_has:
            return
        added: RosterEntry = (
            roster.left(hospital, now())
            if fingerprint is None
            else roster.joined(hospital, fingerprint, now())
        )
        if fingerprint is not None and len(roster.entries) + len(roster.keys) >= MOST_ENTRIES:
            raise TrustError(f"the roster has {MOST_ENTRIES} entries at most, and is full")
        Roster(entries=(*roster.entries, added))  # refuses an entry that no site would accept
        self._db.execute("INSERT INTO roster (entry) VALUES (?)", (added.to_bytes(),))
        self._db.execute("DELETE FROM roster_statements WHERE hospital = ?", (hospital,))

    def end_all_invitations(self) -> None:
        """Invalidate all open invitations."""
        self._write("UPDATE invitations SET used = 1")

    def _end_invitations(self, hospital: str) -> None:
        self._db.execute("UPDATE invitations SET used = 1 WHERE hospital = ?", (hospital,))

    def set_node(self, public: bytes, node: int) -> None:
        """Store Flower's node id of this key, if a hospital is (still) enrolled with it."""
        # Flower's node ids are unsigned 64-bit numbers; SQLite's integers are signed.
        self._write("UPDATE hospitals SET node = ? WHERE public = ?", node - (1 << 63), public)

    def nodes(self) -> dict[str, int]:
        """Return hospital id -> Flower's node id of this start, without revoked hospitals."""
        return {
            member.id: member.node + (1 << 63)
            for member in self.members()
            if member.node is not None and not member.revoked
        }

    def add_connection(self, hospital: str) -> None:
        """Count a connection of this hospital's agent."""
        self._write("UPDATE hospitals SET connections = connections + 1 WHERE id = ?", hospital)

    def connections(self) -> dict[str, int]:
        """Return hospital id -> how often its agent has connected."""
        return dict(self._all("SELECT id, connections FROM hospitals"))


def _decode(stored: bytes) -> Any:
    return canonical.decode(stored, limit=len(stored), what="the stored roster")


def _member(row: tuple[Any, ...]) -> Member:
    return Member(row[0], row[1], row[2], row[3], bool(row[4]), row[5], row[6], row[7])
