"""The monitors of one version of a model, with their file.

    1. answers arrive in batches. One transaction counts them and keeps what outcomes are waited
       for, so that a batch is there whole or not at all;
    2. once a minute outcomes that are due are counted;
    3. whoever settles an alarm writes to the same file. A change by another process is noticed at
       the next transaction, and all is read again.

A patient who opted out is not counted any more, and their rows are deleted; counts stay.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import NamedTuple

from flo.clients.home.site_home import SiteHome
from flo.clients.prediction import monitor_news
from flo.clients.records.watched_answers import WatchedAnswer, WatchedAnswers, day_of
from flo.clients.watching.alarm import Alarm
from flo.clients.watching.calibration import Kept
from flo.clients.watching.cells import Cells
from flo.clients.watching.series import KEPT_DAYS, sparse
from flo.clients.watching.watch import AGAIN_DAYS, Answered, Watch
from flo.documents import canonical
from flo.documents.document import Document, parse
from flo.errors import TrustError, UsageError
from flo.published.model_card import PublishedModel
from flo.published.model_states import ModelVersion, Why
from flo.study.document import Study

log = logging.getLogger("flo.clients.watching.kept")
FINISHED = "finished-"  # the beginning of such a watch's id
_OUTCOMES_SECONDS = 60.0
_LONGEST_GAP = 400  # days without a server, after which monitors must begin anew
_USUAL_CUTS = (0.1, 0.3)  # risks, of a model whose card states none


class _Said(Document):
    why: Why


@dataclass(frozen=True)
class Watched:
    """A version that is watched. ``finished``: when it was finished here; "" of a published one.
    ``card``: digest of a published one's card; "" of a finished one, which no other hospital has.
    """

    study: Study
    cuts: tuple[float, float]
    card: str
    finished: str = ""

    @classmethod
    def of(cls, model: PublishedModel, finished: str = "") -> Watched:
        """Return what is watched of a model that answers. ``finished``: as above."""
        curve, cuts = model.card.calibration, _USUAL_CUTS
        if curve is not None:
            third = len(curve.risk) // 3
            low, high = curve.risk[third], curve.risk[-third - 1]
            cuts = (low, high) if low < high else cuts
        return cls(model.study, cuts, "" if finished else model.card.digest, finished)

    @cached_property
    def id(self) -> str:
        """Name of its file."""
        digest = canonical.digest(canonical.encode([self.study.digest, self.finished]))
        return f"{FINISHED if self.finished else ''}{digest[:32]}"

    @property
    def version(self) -> ModelVersion | None:
        """The version, as a monitor across hospitals names it; None of a finished one."""
        study = self.study
        if not self.card:
            return None
        return ModelVersion(version=study.version, study=study.digest, card=self.card)

    @property
    def subgroups(self) -> list[str]:
        """Groups that the study's evaluation states, as ``column=code``."""
        names = self.study.evaluation.subgroups if self.study.evaluation else ()
        columns = [one for one in self.study.data.columns if one.name in names]
        return [
            f"{one.name}={code}" for one in columns if one.kind == "category" for code in one.codes
        ]


class Arrived(NamedTuple):
    """An answer that was sent, after so many ``seconds``. ``patient``: keyed hash; "" if the
    request named none. ``cells``, ``broken``, ``risk``: as in ``Answered``."""

    id: str
    caller: str
    seconds: float
    patient: str
    ward: str
    cells: Cells | None
    broken: tuple[tuple[int, int | None], ...]
    risk: float | None


class KeptWatch:
    """For one thread at a time, and several processes."""

    def __init__(self, home: SiteHome, watched: Watched) -> None:
        """Open or create its file. Raises TrustError, UsageError: it cannot be used."""
        self._home, self.watched, self._rows = home, watched, WatchedAnswers(home, watched.id)
        self._revision, self._outcomes_at, self._without = -1, 0.0, frozenset[str]()
        names = watched.study.evaluation.subgroups if watched.study.evaluation else ()
        self._grouped = [
            (place, {n: f"{one.column.name}={code}" for n, code in enumerate(one.column.codes)})
            for place, one in enumerate(self._new().layout.study.columns)
            if one.column.kind == "category" and one.column.name in names
        ]
        self.watch = self._new()
        with self._changing():  # reads all of it
            pass

    def take(
        self,
        several: Sequence[Arrived],
        follow_up: int,
        now: float,
        without: frozenset[str] = frozenset(),
        *,
        is_time_to_look: bool = True,
    ) -> list[Alarm]:
        """Count a batch, look, and return the alarms about which nothing was done yet. [1]

        ``follow_up``: days after which an outcome is known. ``without``: keyed hashes of patients
        who opted out. Raises TrustError, sqlite3.Error: it cannot be kept. UsageError: its file
        was erased, or the clock is wrong.
        """
        today = self._checked_day(now)
        if without != self._without:  # a batch may have come between an opt-out and its deletion
            self._rows.forget(without)
            self._without = without
        with self._changing():
            before = self._stamp()
            if several:
                self._count([one for one in several if one.patient not in without], today, now)
            if abs(now - self._outcomes_at) >= _OUTCOMES_SECONDS or before[0] != today:
                self._outcomes_at = now
                self.watch.count_outcomes(today, follow_up, self._of_day, self._rows.unknown)
            if is_time_to_look:
                self.watch.look(today, now)
            self._write(before, today, {one.ward for one in several})
        return [one for one in self.watch.alarms if not one.is_answered]

    def answered(self, numbers: Collection[int]) -> None:
        """Keep that what the plan says was done about these alarms."""
        with self._changing():
            self.watch.answered(numbers)
            self._write_state()

    def settle(self, number: int, why: str, *, as_usual: bool) -> Alarm:
        """End an alarm [3], with an entry in the audit log.

        Raises as ``Watch.settle``. UsageError: a text is not allowed.
        """
        said = parse(_Said, {"why": why}, "the decision")
        study = self.watched.study
        with self._changing():
            alarm = self.watch.settle(number, as_usual=as_usual)
            self._write_state()
            self._write_days()
            if not self.watched.finished:  # no audit log may say that there is one
                facts = {"version": study.version, "alarm": number, "as_usual": as_usual}
                more = alarm.key.public | {"why": said.why}
                self._home.record("watch-settled", study.digest, name=study.name, **facts, **more)
        return alarm

    def settle_before(self, time: float) -> None:
        """End all alarms of before a time (seconds since 1970), when a person put the version into
        use again, and knew of them. All monitors begin anew with their baselines then: what others
        of them had seen by that time was known, too."""
        with self._changing():
            if any(one.time < time for one in self.watch.alarms):
                self.watch.begin_again(time)
                self._write_state()
                self._write_days()

    def close(self) -> None:
        """Close the file."""
        self._rows.close()

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Run a transaction on what is in the file now; after an error all is read again."""
        try:
            with self._rows.changing():
                self._load_if_changed()
                self._read_across()
                yield
        except BaseException:
            self._revision = -1
            raise

    def _read_across(self) -> None:
        """Read what is known of the monitor across hospitals. If that cannot be read, what was
        known before counts; the agent fetches it again."""
        version = self.watched.version
        if version is None:
            return
        try:
            self.watch.across.series = monitor_news.read(self._home, version)
        except TrustError as error:
            log.error(f"the monitor across hospitals of {self.watched.study.name}: {error}")

    def _checked_day(self, now: float) -> int:
        """Return today. Raises UsageError: the file was erased, or the clock is wrong."""
        if not self._rows.is_there():
            raise UsageError("its file was erased", hint="the monitors begin anew")
        today, last = day_of(now), self.watch.hospital.day
        if last and not last <= today <= last + _LONGEST_GAP:
            raise UsageError(
                f"it is {date.fromordinal(today)} now, and was {date.fromordinal(last)} when the "
                "monitors counted last",
                hint="correct the clock; or let them begin anew: flo model watch NAME --erase",
            )
        return today

    def _new(self) -> Watch:
        watched = self.watched
        return Watch(watched.study.data, watched.subgroups, watched.cuts)

    def _load_if_changed(self) -> None:
        revision = self._rows.revision()
        if revision == self._revision:
            return
        self._revision, watch = revision, self._new()
        state = self._rows.state()
        if state is not None:
            if state.get("schema_version") not in (1, 2):
                raise TrustError(
                    f"monitors of {self.watched.study.name} have schema "
                    f"{state.get('schema_version')}; this version reads 1 and 2"
                )
            watch.take_state(state)
            for ward, day, counts in self._rows.days():
                series = watch.wards.get(ward) if ward else watch.hospital
                if series is not None:
                    series.take_day(day, counts)
        watch.across.series, self.watch = self.watch.across.series, watch

    def _count(self, several: Sequence[Arrived], today: int, now: float) -> None:
        """Count answers of today, and keep those whose outcome is waited for."""
        answered, kept, now_counted = (
            list[Answered](),
            list[WatchedAnswer](),
            set[tuple[str, bool]](),
        )
        counted = dict[str, set[bool]]()
        for one in several:
            fits, is_first, is_new = one.cells is not None, False, False
            if one.patient:  # else nobody knows whether it is the same patient again
                if one.patient not in counted:
                    counted[one.patient] = self._rows.counted(one.patient, today - AGAIN_DAYS)
                before = counted[one.patient]
                is_first, is_new = not before, fits and True not in before
                if is_first or is_new:
                    before.add(fits)
                    now_counted.add((one.patient, fits))
            facts = one.ward, one.seconds, one.cells, one.broken, one.risk
            answered.append(Answered(*facts, is_first, is_new))
            if is_new and one.risk is not None and one.cells is not None:
                groups = self.watch.groups_of(one.ward, one.risk, self._subgroups(one.cells))
                facts_kept = one.id, one.patient, one.caller, today, one.risk, tuple(groups)
                kept.append(WatchedAnswer(*facts_kept))
        self._rows.count_patients(now_counted, today)
        self.watch.count(today, answered, int(now // 3600))
        self._rows.add(kept)

    def _subgroups(self, cells: Cells) -> list[str]:
        """Return the groups of the study's evaluation that a patient is in."""
        return [groups[cell] for place, groups in self._grouped if (cell := cells[place]) in groups]

    def _of_day(self, day: int) -> list[Kept]:
        return [
            Kept(one.groups, one.risk, one.outcome, one.reported) for one in self._rows.of_day(day)
        ]

    def _stamp(self) -> tuple[object, ...]:
        """Return what, if it changes, must be written beside the day's counts."""
        watch = self.watch
        numbers = [one.number for one in watch.alarms]
        outcomes = watch.outcomes.day, watch.outcomes.next_day, watch.outcomes.next_late
        return watch.hospital.day, *outcomes, *numbers, *watch.wards

    def _write(self, before: tuple[object, ...], today: int, wards: set[str]) -> None:
        self._write_days(wards)
        if self._stamp() != before:
            self._write_state()
            self._rows.drop_days(today - KEPT_DAYS)
            waiting = min(self.watch.outcomes.next_day, self.watch.outcomes.next_late)
            self._rows.drop(waiting, today - AGAIN_DAYS)

    def _write_state(self) -> None:
        self._rows.write_state(self.watch.to_state())
        self._revision = self._rows.revision()

    def _write_days(self, wards: Collection[str] | None = None) -> None:
        """Write today's counts: of the hospital, and of these wards; None: of all."""
        several = self.watch.wards.values()
        for one in (self.watch.hospital, *several):
            if one.day and (not one.name or wards is None or one.name in wards):
                self._rows.write_day(one.name, one.day, sparse(one.all_today()))
