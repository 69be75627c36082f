"""What a monitor across hospitals found of a version, fetched by this hospital.

1. the signed results that the site does not have are fetched, one after the other;
2. if all results together are not one series of this version, signed by this coordinator, the
   new ones are refused, and the site keeps those that it had;
3. they are a file beside the version's card, from which everything is computed again.
"""

from __future__ import annotations

from pathlib import Path

from flo.clients.connection.coordinator_api import CoordinatorApi
from flo.clients.home.site_home import SiteHome
from flo.clients.prediction import versions
from flo.documents import canonical
from flo.documents.document import Document, parse
from flo.errors import MessageError, TrustError
from flo.published.model_states import ModelVersion
from flo.published.monitor_result import MonitorResult, from_list, to_list
from flo.published.monitor_series import Series, monitor_of, series
from flo.storage.files import make_private_directory, write_private
from flo.study.monitor import MOST_PERIODS

_FILE = "monitor.json"


class RefusedSeriesError(TrustError):
    """The coordinator shows results of a monitor that are not one series, or are not signed."""


class _Shown(Document):
    """``result``: None if the site has all."""

    result: MonitorResult | None


def ask(home: SiteHome, api: CoordinatorApi) -> None:
    """Fetch what monitors found of all versions that are known here: which one is in use is not
    said.

    Raises RefusedSeriesError: results were refused, after all others were stored.
    """
    found, refused = versions.read(home), list[str]()
    for name in found.names:
        for model in found.known_versions(name):
            try:
                fetch(home, api, model)
            except RefusedSeriesError as error:
                refused.append(f"{name}, version {model.version}: {error}")
    if refused:
        raise RefusedSeriesError("; ".join(refused), hint="ask the coordinator's operator")


def fetch(home: SiteHome, api: CoordinatorApi, model: ModelVersion) -> Series | None:
    """Fetch what is new of a version's monitor [1-3]; return all of it, or None if there is none.

    Raises RefusedSeriesError: the new results are refused. [2]
    """
    known = _readable(home, model)
    results = [one.result for one in known.periods] if known else []
    before = len(results)
    while len(results) < MOST_PERIODS:
        had = [canonical.digest(one.study.encode()) for one in results]
        answer = api.call("monitor", {"card": model.card, "known": had})
        shown = parse(_Shown, answer, "the coordinator's result of a monitor").result
        if shown is None:
            break
        results.append(shown)
    if len(results) == before:
        return known
    try:
        after = _checked(home, model, results)
    except TrustError as error:
        raise RefusedSeriesError(
            f"results of its monitor are refused: {error}", hint="ask the coordinator's operator"
        ) from error
    with home.models_lock():
        now = _readable(home, model)  # the agent and a command may fetch at the same time
        if now is not None and len(now.periods) >= len(after.periods):
            return now
        make_private_directory(versions.folder_of(home, model))
        write_private(_path(home, model), to_list(results))
    facts = {"version": model.version, "period": after.last.number}
    home.record("monitor-read", model.study, **facts, alarms=[one.number for one in after.alarms])
    return after


def read(home: SiteHome, model: ModelVersion) -> Series | None:
    """Return what this hospital knows of a version's monitor; None if nothing.

    Raises TrustError: its file is not one series that this site's coordinator signed.
    """
    path = _path(home, model)
    if not path.exists():
        return None
    return home.read_unchanged(lambda: _checked(home, model, _stored(path)), path)


def _readable(home: SiteHome, model: ModelVersion) -> Series | None:
    try:
        return read(home, model)
    except TrustError:  # of another coordinator, or damaged: all of it is fetched again
        return None


def alarm_of(home: SiteHome, model: ModelVersion) -> str:
    """Say that a version's monitor has raised an alarm; "" if it has not, or nothing is known."""
    found = _readable(home, model)
    if found is None or not found.alarms:
        return ""
    periods = " and ".join(f"period {one.number}" for one in found.alarms)
    return f"the monitor across hospitals has raised an alarm in {periods}"


def _stored(path: Path) -> list[MonitorResult]:
    try:
        return from_list(path.read_bytes())
    except MessageError as error:
        raise TrustError(f"{path} is damaged: {error}", hint="the agent fetches it again") from None


def _checked(home: SiteHome, model: ModelVersion, results: list[MonitorResult]) -> Series:
    found = series(results, *home.read_coordinator().fingerprints)
    watched = monitor_of(found.last.study).model
    if watched != model.card:
        raise TrustError(f"they watch card {watched[:12]}, and this is {model.card[:12]}")
    return found


def _path(home: SiteHome, model: ModelVersion) -> Path:
    return versions.folder_of(home, model) / _FILE
