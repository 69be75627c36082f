"""The site's copy of the roster: fetched and checked, and confirmed by its steward on a call.

Steps 2 to 6 of ``flo.protocol.roster``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from flo.clients.approvals.fingerprints import AddressBook
from flo.clients.connection.coordinator_api import CoordinatorApi
from flo.clients.home.site_home import SiteHome
from flo.documents.document import parse, read_json
from flo.errors import TrustError, UsageError
from flo.keys.identity import format_fingerprint, parse_fingerprint
from flo.protocol.roster import Roster, RosterStatement, Vouchers, WitnessedRoster
from flo.storage.files import write_private
from flo.study.document import Study

_LIMIT = 64 << 20  # bytes; as the coordinator's replies
_NAMED = 5  # hospitals named in one line
_DIGEST = re.compile(r"[0-9a-f]{64}")
_TELL = (
    "tell the stewards of the other hospitals, by telephone, and approve nothing until it is clear"
)


def read(home: SiteHome) -> WitnessedRoster:
    """Return the roster that this site fetched last; it is empty before the first time."""
    path = _path(home)
    return read_json(WitnessedRoster, path, limit=_LIMIT) if path.exists() else WitnessedRoster()


def fetch(home: SiteHome, api: CoordinatorApi) -> WitnessedRoster:
    """Fetch the roster, check it against our copy, and store it. [2]

    Raises:
        TrustError: it does not continue our copy, or holds another key for this hospital.
        UsageError: it is not a roster.
    """
    return _exchange(home, api, None)


def check_spoken(roster: Roster, spoken: str) -> None:
    """Check a digest as it was read out on the call. [3]

    Raises:
        UsageError: it is not a digest. TrustError: it is not our roster's.
    """
    digest = parse_fingerprint(spoken)
    if not _DIGEST.fullmatch(digest):
        raise UsageError(
            f"{spoken[:80]!r} is not the digest of a roster",
            hint="it has 64 digits 0 to 9 and a to f, in 16 groups of four",
        )
    if digest != roster.digest:
        raise TrustError(
            "the roster that this site fetched has another digest than the one that was read out",
            hint="check for a typing error, and ask on the call whether a hospital has just "
            "enrolled or left: then fetch it again. If neither is so, the coordinator shows "
            f"different rosters: {_TELL}",
        )


def confirm(
    home: SiteHome, api: CoordinatorApi, spoken: str, heard: Collection[str]
) -> WitnessedRoster:
    """Confirm the keys of the hospitals that the steward heard, and sign whom it confirmed. [4, 5]

    ``spoken``: the digest, as it was read out. ``heard``: the hospitals that said that this roster
    holds their key.

    Raises:
        UsageError: a name is not on the roster, or is our own; or not a digest. TrustError: as
        ``fetch``; or our roster has another digest. Nothing is stored then. NetworkError: the keys
        may be confirmed without our signature on it; confirm again.
    """
    roster = fetch(home, api).roster
    check_spoken(roster, spoken)
    own = home.read_config().hospital
    unknown = sorted(set(heard) - (set(roster.keys) - {own}))
    if unknown:
        raise UsageError(
            f"no partner of this name is on the roster: {', '.join(unknown)[:200]}",
            hint=f"partners on it: {', '.join(name for name in roster.keys if name != own)}",
        )
    book = AddressBook.load(home).confirm(home, {name: roster.keys[name] for name in sorted(heard)})
    home.record("roster-confirmed", roster=roster.digest, heard=sorted(heard))
    confirmed = [n for n, key in book.confirmed.items() if roster.keys.get(n) == key and n != own]
    statement = RosterStatement.signed(
        home.open_identity(), own, roster.digest, tuple(sorted(confirmed))
    )
    return _exchange(home, api, statement)


def begin_anew(home: SiteHome) -> None:
    """Forget our copy of the roster, so that the next one fetched is the first.

    Confirmed keys stay confirmed. For a coordinator that lost entries and restored a backup.
    """
    forgotten = read(home).roster.digest
    home.record("roster-forgotten", roster=forgotten)
    _path(home).unlink(missing_ok=True)


def unconfirmed(home: SiteHome, study: Study) -> list[str]:
    """Return partners in the study whose key the steward cannot rely on. [6]

    These are the partners whose key was neither compared nor heard on a call, nor confirmed by
    more than ``study.colluders`` of the study's hospitals whose keys were.

    Raises:
        TrustError: the study names a key for a partner that differs from the compared one.
    """
    book = AddressBook.load(home)
    strangers = book.unconfirmed(study, home.read_config().hospital)
    if not strangers:
        return []
    partners = {hospital.id: hospital.fingerprint for hospital in study.hospitals}
    trusted = {n: key for n, key in book.confirmed.items() if partners.get(n) == key}
    vouchers = read(home).vouchers(trusted).by_key
    return [
        name
        for name in strangers
        if len(vouchers.get((name, partners[name]), ())) <= study.colluders
    ]


def known_as(
    hospital: str, fingerprint: str, confirmed: Mapping[str, str], vouchers: Vouchers
) -> str:
    """Return in words how this site knows a partner's key. ``confirmed``: by the steward."""
    if confirmed.get(hospital) == fingerprint:
        return "confirmed"
    if hospital in confirmed:
        return "NOT THE KEY THAT WAS CONFIRMED HERE"
    by = vouchers.by_key.get((hospital, fingerprint), ())
    named = f"; confirmed by {', '.join(sorted(by)[:_NAMED])}" if by else ""
    more = f" and {len(by) - _NAMED} more" if len(by) > _NAMED else ""
    return f"not confirmed here{named}{more}"


def _exchange(
    home: SiteHome, api: CoordinatorApi, statement: RosterStatement | None
) -> WitnessedRoster:
    body: dict[str, Any] = {"statement": statement.model_dump(mode="json") if statement else None}
    shown = parse(WitnessedRoster, api.call("roster", body), "the coordinator's roster")
    known = read(home)
    if not shown.roster.continues(known.roster):
        raise TrustError(
            f"the coordinator shows a roster that does not continue the one that this site "
            f"fetched before ({len(known.roster.entries)} entries)",
            hint=f"{_TELL}. If its backup was restored: flo site roster --begin-anew",
        )
    own, ours = home.read_config().hospital, home.open_identity().fingerprint
    if shown.roster.keys.get(own) != ours:
        held = shown.roster.keys.get(own)
        said = f"another key for {own}: {format_fingerprint(held)}" if held else f"no key for {own}"
        raise TrustError(f"the coordinator's roster holds {said}", hint=_TELL)
    if shown != known:
        write_private(_path(home), shown.to_bytes())
    if shown.roster != known.roster:
        home.record("roster-fetched", roster=shown.roster.digest, entries=len(shown.roster.entries))
    return shown


def _path(home: SiteHome) -> Path:
    return home.directory / "roster.json"
