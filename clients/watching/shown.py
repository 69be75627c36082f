"""What the desk and ``flo model watch`` show of a model's monitors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from flo.clients.watching.alarm import Alarm
from flo.clients.watching.calibration import ALL, Outcomes
from flo.clients.watching.counts import ASKED, SCORED, Counts
from flo.clients.watching.naming import typical
from flo.clients.watching.series import BASELINE_DAYS, BASELINE_PATIENTS, FIRST_DAYS, Series
from flo.clients.watching.watch import Watch, score_of
from flo.clients.watching.words import Said, in_words
from flo.published.monitor_words import rows

_RECENT = 7  # days
_WEEK, _MOST_WEEKS = 7, 16


@dataclass(frozen=True)
class ShownColumn:
    """A column of the whole hospital. ``before``, ``recent``: what is typical, in words, and the
    shares of patients without a value and whose record did not fit, in the baseline and in the last
    week. ``score``: of its monitors."""

    title: str
    before: str
    recent: str
    missing: tuple[float, float]
    refused: tuple[float, float]
    score: float


@dataclass(frozen=True)
class ShownWatch:
    """``learning``: what the monitors of answers still wait for; "" if they watch. ``across``: what
    the monitor across hospitals says, as label and text; empty if nothing is known of one."""

    health: float
    learning: str
    patients: int
    alarms: list[tuple[Alarm, Said]]
    columns: list[ShownColumn]
    groups: list[tuple[str, Outcomes, float]]
    weeks: list[tuple[int, Outcomes]]
    wards: list[tuple[str, str]]
    across: list[tuple[str, str]]


def shown(watch: Watch, today: int) -> ShownWatch:
    """Return what is shown on a day (an ordinal)."""
    seen = {key: score_of(one) for key, one, _, _ in watch.seen(today)}
    series = watch.hospital
    scores = {
        key.name: score for key, score in seen.items() if key.kind == "column" and not key.ward
    }
    columns = list(_columns(watch, scores, today))
    groups = [
        (key.name, watch.outcomes.since(0, key.name), score)
        for key, score in seen.items()
        if key.kind == "outcomes"
    ]
    return ShownWatch(
        health=min([*seen.values(), watch.across.health]),
        learning=_learning(series, today),
        patients=int(series.since(0)[SCORED]),
        alarms=[(alarm, in_words(watch, alarm)) for alarm in watch.alarms],
        columns=columns,
        groups=[one for one in groups if one[1].known],
        weeks=_weeks(watch, today),
        wards=[(name, _learning(ward, today)) for name, ward in watch.wards.items()],
        across=_across(watch),
    )


def _across(watch: Watch) -> list[tuple[str, str]]:
    """Return what the monitor across hospitals says, without its health, which may be settled."""
    series = watch.across.series
    return [] if series is None else [one for one in rows(series) if one[0] != "health"]


def _learning(series: Series, today: int) -> str:
    if series.rates is not None:
        return ""
    if not series.since(0)[ASKED]:
        return "requests that name their patient"
    scored = int(series.baseline[SCORED])
    days = max(FIRST_DAYS + BASELINE_DAYS - (today - series.began), 0)
    patients = max(BASELINE_PATIENTS - scored, 0)
    waits = [f"{days} more days"] * (days > 0) + [f"{patients} more patients"] * (patients > 0)
    return " and ".join(waits) or "the end of the day"


def _columns(watch: Watch, scores: dict[str, float], today: int) -> Iterator[ShownColumn]:
    series = watch.hospital
    before = series.baseline if series.rates else series.since(0)
    recent = series.since(today - _RECENT)
    for places in watch.layout.columns:
        yield ShownColumn(
            places.of.title,
            typical(places, before),
            typical(places, recent),
            _shares(places.missing, SCORED, before, recent),
            _shares(places.refused, ASKED, before, recent),
            scores.get(places.of.column.name, 100.0),
        )


def _shares(place: int, of: int, *several: Counts) -> tuple[float, float]:
    was, now = (float(counts[place] / max(int(counts[of]), 1)) for counts in several)
    return was, now


def _weeks(watch: Watch, today: int) -> list[tuple[int, Outcomes]]:
    """Return first day and outcomes of the last weeks in which any were counted."""
    found = dict[int, Outcomes]()
    for day, groups in watch.outcomes.days.items():
        if ALL in groups:
            week = day - (day - 1) % _WEEK  # ordinal 1 was a Monday
            found[week] = found.get(week, Outcomes()).plus(groups[ALL])
    return sorted(found.items())[-_MOST_WEEKS:]
