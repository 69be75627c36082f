"""What an alarm says, in words that a clinician and an operator understand."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np

from flo.clients.watching.alarm import Alarm
from flo.clients.watching.calibration import ALL
from flo.clients.watching.counts import ANSWERED, RISK_EDGES, SCORED, SLOW, Counts
from flo.clients.watching.naming import is_as_before, named, percent
from flo.clients.watching.series import Series
from flo.clients.watching.watch import Watch
from flo.published.monitor_series import WatchedPeriod

_FAR, _NEAR = 3.0, 2.0  # standard deviations of outcomes from those that were stated


@dataclass(frozen=True)
class Said:
    """``cause``: of ``flo.clients.watching.naming``, or the alarm's kind. ``words``: one sentence,
    without its end. ``advice``: what to do."""

    cause: str
    words: str
    advice: str


_ADVICE = {
    "units": "ask who sends the column, and correct the unit at its source or in the mapping",
    "factor": "ask who sends the column: a unit or a decimal point may have changed",
    "codes": "compare the codebook of the source with the study's, and correct the mapping",
    "constant": "ask who sends the column: a device or an interface may be stuck",
    "missing": "ask who sends the column what changed on that day",
    "refused": "read the broken rules on the cards, and correct the source or the mapping",
    "values": "look whether other patients come, or whether a device or a method changed",
    "risk": "look at the columns first; then whether other patients come",
    "slow": "look at the machine's load, and at flo doctor",
    "outcomes": "do not act on the risks of these patients until the cause is known; a model that "
    "is finished at home fits again",
    "late": "ask who reports the outcomes",
    "hospitals": "do not act on the model's risks until the cause is known; flo model drift shows "
    "the coordinator's operator all periods",
}


def in_words(watch: Watch, alarm: Alarm) -> Said:
    """Return what an alarm says, by all counts so far."""
    key, since = alarm.key, date.fromordinal(alarm.since)
    began = f"since about {since:%Y-%m-%d}"
    if key.kind == "outcomes":
        found = watch.outcomes.since(alarm.since, key.name)
        more = "more" if found.had > found.stated else "fewer"
        words = (
            f"{key.name}: {more} outcomes than the model states: {found.had:,} of "
            f"{found.known:,} patients, stated {found.stated:,.0f}{_above_all(watch, alarm)}"
        )
        return _said("outcomes", words, began)
    if key.kind == "hospitals":
        return Said("hospitals", _across(watch.across.alarms), _ADVICE["hospitals"])
    if key.kind == "late":
        return _said("late", "outcomes are reported later than before, or not at all", began)
    series = watch.wards[key.ward] if key.ward else watch.hospital
    before, now = series.baseline, series.since(alarm.since)
    where = f", in {key.ward}" if key.ward else ""
    if key.kind == "slow":
        shares = [counts[SLOW] / max(counts[ANSWERED], 1) for counts in (before, now)]
        words = (
            f"{percent(shares[1])} of answers took more than a second, before {percent(shares[0])}"
        )
        return _said("slow", words + where, began)
    if key.kind == "risk":
        was, is_ = (_median_risk(counts, watch) for counts in (before, now))
        medians = f"a median of {percent(is_)}, before {percent(was)}"
        words = f"stated risks are others than before: {medians}"
        return _said("risk", words + where, began)
    place = watch.layout.column(key.name)
    only = None if key.ward else _only_in(watch, alarm)
    if only is not None:
        where = f", in {only.name} only"
        before, now = only.baseline, only.since(alarm.since)
    what = named(place, before, now, alarm.rate)
    return _said(what.cause, f"{place.of.title} {what.words}{where}", began)


def _said(cause: str, words: str, began: str) -> Said:
    return Said(cause, f"{words}, {began}", _ADVICE[cause])


def _across(alarms: list[WatchedPeriod]) -> str:
    if not alarms:
        return "at all hospitals together: an alarm whose signed results cannot be read now"
    more = "more" if alarms[-1].evidence.direction > 0 else "fewer"
    return (
        f"at all hospitals together: {more} outcomes than the model states, by more than is "
        f"tolerated; found in {' and '.join(f'period {one.number}' for one in alarms)} of its "
        "monitor"
    )


def _above_all(watch: Watch, alarm: Alarm) -> str:
    """Return the group that alone explains an alarm about all patients; "" if none does."""
    if alarm.key.name != ALL:
        return ""
    everybody, best = watch.outcomes.since(alarm.since, ALL), ("", 0.0)
    for group in watch.outcomes.log_weights:
        part = watch.outcomes.since(alarm.since, group)
        apart, rest = part.deviations, everybody.minus(part).deviations
        if abs(apart) > max(_FAR, abs(best[1])) and abs(rest) < _NEAR:
            best = group, apart
    return f", only in {best[0]}" if best[0] else ""


def _only_in(watch: Watch, alarm: Alarm) -> Series | None:
    """Return the ward in which alone a column changed, if that is so.

    The first weeks of a ward with few patients are those that it had so far.
    """
    before, since = watch.hospital.baseline, watch.hospital.since(alarm.since)
    place = watch.layout.column(alarm.key.name)
    changed = [
        ward
        for ward in watch.wards.values()
        if ward.baseline[SCORED] and not is_as_before(place, ward.baseline, ward.since(alarm.since))
    ]
    if len(changed) != 1 or len(watch.wards) < 2:
        return None
    rest = since - changed[0].since(alarm.since)
    return changed[0] if is_as_before(place, before, rest) else None


def _median_risk(counts: Counts, watch: Watch) -> float:
    part = counts[watch.layout.risk]
    ends = np.concatenate([[0.0], RISK_EDGES, [1.0]])
    rise = np.concatenate([[0.0], np.cumsum(part) / max(int(part.sum()), 1)])
    return float(np.interp(0.5, rise, ends))
