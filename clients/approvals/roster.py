"""The site's copy of the roster: fetched and checked, and confirmed by its steward on a call.

Steps 2 to 6 of ``flo.keys.roster``.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

from flo.clients.approvals.fingerprints import AddressBook
from flo.clients.connection.coordinator_api import CoordinatorApi
from flo.clients.home.site_home import SiteHome
from flo.documents import canonical
from flo.documents.document import Document, parse
from flo.errors import MessageError, RefusedError, TrustError, UsageError
from flo.keys.identity import format_fingerprint, parse_fingerprint
from flo.keys.roster import Roster, RosterStatement, Vouchers, WitnessedRoster
from flo.storage.files import write_private
from flo.study.document import Study

_LIMIT, _VALUES = 64 << 20, 1_000_000  # bytes and values of a roster: about 1,000 hospitals
_NAMED = 5  # hospitals named in one line
_DIGEST = re.compile(r"[0-9a-f]{64}")
_TELL = "tell the other stewards by telephone, and approve nothing until it is clear"


class _Shown(Document):
    """``roster``: None if it is the one that the site knows."""

    roster: WitnessedRoster | None


def read(home: SiteHome) -> WitnessedRoster:
    """Return the roster that this site fetched last; it is empty before the first time."""
    path = _path(home)
    if not path.exists():
        return WitnessedRoster()
    data = path.read_bytes()
    value = canonical.decode(data, limit=_LIMIT, what=str(path), values=_VALUES)
    return parse(WitnessedRoster, value, str(path))


def fetch(home: SiteHome, api: CoordinatorApi) -> WitnessedRoster:
    """Fetch the roster, check it against our copy, and store it. [2]

    If the steward has confirmed other keys than our last statement says, sign a new one. [5]

    Raises:
        TrustError: it does not continue our copy, or holds another key for this hospital.
        UsageError: it is not a roster.
    """
    fetched, told = _exchange(home, api, None)
    statement = _statement(home, fetched, told)
    if statement is None:
        return fetched
    try:
        return _exchange(home, api, statement)[0]
    except TrustError:  # the agent and a command may sign one at the same time
        fetched, told = _exchange(home, api, None)
        if _statement(home, fetched, told) is not None:
            raise
        return fetched


def refuse_rewritten(home: SiteHome, api: CoordinatorApi) -> None:
    """Fetch the roster before an approval. Raises TrustError as ``fetch`` does.

    A coordinator of an earlier version has no roster, and stops no approval.
    """
    with suppress(MessageError, RefusedError):
        fetch(home, api)


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
            hint="say so on the call. If a hospital has just enrolled or left, one person reads "
            "out the new digest, and then every hospital enters it and says yes again: what was "
            f"said about the old one is void. Otherwise {_TELL}",
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
        may be confirmed without our statement on it; ``fetch`` sends it.
    """
    roster = _exchange(home, api, None)[0].roster
    check_spoken(roster, spoken)
    own = home.read_config().hospital
    unknown = sorted(set(heard) - (set(roster.keys) - {own}))
    if unknown:
        raise UsageError(
            f"no partner of this name is on the roster: {', '.join(unknown)[:200]}",
            hint=f"partners on it: {', '.join(name for name in roster.keys if name != own)[:1000]}",
        )
    AddressBook.confirm(home, {name: roster.keys[name] for name in sorted(heard)})
    home.record("roster-confirmed", roster=roster.digest, heard=sorted(heard))
    return fetch(home, api)


def begin_anew(home: SiteHome) -> None:
    """Forget our copy of the roster, so that the next one fetched is the first.

    Confirmed keys stay confirmed. For a coordinator that lost entries and restored a backup.
    """
    with home.partners_lock():
        home.record("roster-forgotten", roster=read(home).roster.digest)
        _path(home).unlink(missing_ok=True)


def unconfirmed(home: SiteHome, study: Study) -> list[str]:
    """Return partners in the study whose key the steward cannot rely on. [6]

    These are the partners whose key was neither compared nor heard on a call, nor confirmed by
    more than ``study.colluders`` of the study's hospitals whose keys were.

    Raises:
        TrustError: the study names a key for a partner that differs from the compared one.
    """
    book, own = AddressBook.load(home), home.read_config().hospital
    strangers = book.unconfirmed(study, own)
    if not strangers:
        return []
    partners = {one.id: one.fingerprint for one in study.hospitals if one.id != own}
    trusted = {name: key for name, key in book.confirmed.items() if partners.get(name) == key}
    vouchers = read(home).vouchers(trusted).by_key
    return [
        name
        for name in strangers
        if len(vouchers.get((name, partners[name]), ())) <= study.colluders
    ]


def other_keys(roster: Roster, confirmed: Mapping[str, str]) -> list[str]:
    """Return hospitals of which the roster has another key than the one confirmed here."""
    return [name for name, key in roster.keys.items() if confirmed.get(name, key) != key]


def known_as(
    hospital: str, roster: Roster, confirmed: Mapping[str, str], vouchers: Vouchers
) -> str:
    """Return in words how this site knows a partner's key. ``confirmed``: by the steward."""
    key = roster.keys[hospital]
    if confirmed.get(hospital) == key:
        return "confirmed"
    if hospital in confirmed:
        return "NOT THE KEY THAT WAS CONFIRMED HERE: it was replaced since"
    by = sorted(vouchers.by_key.get((hospital, key), ()))
    named = f"; confirmed by {', '.join(by[:_NAMED])}" if by else ""
    more = f" and {len(by) - _NAMED} more" if len(by) > _NAMED else ""
    new = "; its key was replaced" if hospital in roster.replaced else ""
    return f"not confirmed here{named}{more}{new}"


def _statement(
    home: SiteHome, fetched: WitnessedRoster, told: RosterStatement | None
) -> RosterStatement | None:
    """Return our new statement; None if ``told``, which the coordinator has, is still right."""
    own, roster = home.read_config().hospital, fetched.roster
    names = sorted(
        name
        for name, key in AddressBook.load(home).confirmed.items()
        if roster.keys.get(name) == key and name != own
    )
    then = roster.keys_at({told.roster}).get(told.roster, {}) if told else {}
    said = {name: then.get(name) for name in told.confirmed} if told else {}
    if said == {name: roster.keys[name] for name in names}:
        return None
    last = fetched.statement_of(own)
    number = max(int(time.time() * 1000), last.number + 1 if last else 1)
    return RosterStatement.signed(home.open_identity(), own, number, roster.digest, names)


def _exchange(
    home: SiteHome, api: CoordinatorApi, statement: RosterStatement | None
) -> tuple[WitnessedRoster, RosterStatement | None]:
    """Return the roster, and our statement as the coordinator has it."""
    before, own = read(home), home.read_config().hospital
    said = statement.model_dump(mode="json") if statement else None
    answer = api.call("roster", {"statement": said, "known": before.digest}, values=_VALUES)
    shown = parse(_Shown, answer, "the coordinator's roster").roster or before
    told = shown.statement_of(own)
    _refuse_rewritten(before.roster, shown.roster)
    _refuse_another_key(home, own, shown.roster)
    with home.partners_lock():
        known = read(home)  # the agent and a command may fetch at the same time
        if known.roster != before.roster and known.roster.continues(shown.roster):
            return known, told
        _refuse_rewritten(known.roster, shown.roster)
        found = known.followed_by(shown)
        if found != known:
            write_private(_path(home), found.to_bytes())
    if found.roster != known.roster:
        entries = len(found.roster.entries)
        home.record("roster-fetched", roster=found.roster.digest, entries=entries)
    return found, told


def _refuse_rewritten(known: Roster, shown: Roster) -> None:
    if not shown.continues(known):
        raise TrustError(
            "the coordinator shows a roster that does not continue the one that this site fetched "
            f"before ({len(known.entries)} entries)",
            hint=f"{_TELL}. If the stewards agree that the coordinator only restored a backup: "
            "flo site roster --begin-anew",
        )


def _refuse_another_key(home: SiteHome, own: str, shown: Roster) -> None:
    held = shown.keys.get(own)
    if held != home.open_identity().fingerprint:
        said = f"another key for {own}: {format_fingerprint(held)}" if held else f"no key for {own}"
        raise TrustError(f"the coordinator's roster holds {said}", hint=_TELL)


def _path(home: SiteHome) -> Path:
    return home.directory / "roster.json"
