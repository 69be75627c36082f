"""The way of a study as spans of a trace: from events of the audit log to what took how long.

    study               from the offer to the end of its run
      approval          of one hospital, from the offer
      run               from its start, or its continuation, to its end or pause
        waiting         until hospitals were online
        round           each that was completed, with its phase and hospitals
        attempt         each that failed, with who was missing
      publishing        from the end of the run to the signed model or result

A study is one trace: its id follows from the study's digest, and a span's from the number of the
event that ends it, so that a coordinator that was restarted goes on with the same trace.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

Event = tuple[int, str, str, Mapping[str, Any]]  # number, time, kind, facts
Fact = str | int | float | tuple[str, ...]


@dataclass(frozen=True)
class Span:
    """``trace``, ``id``, ``parent``: of OTLP; ``parent`` 0 for a whole study. ``begun``, ``ended``:
    nanoseconds since 1970. ``failed``: why, or ""."""

    trace: int
    id: int
    parent: int
    name: str
    begun: int
    ended: int
    facts: Mapping[str, Fact]
    failed: str = ""


@dataclass
class StudyTrace:
    """The spans of one study, event by event. ``digest``: of the study."""

    digest: str
    offered: int | None = None
    started: int | None = None
    run: str = ""
    over: int | None = None
    about: dict[str, Fact] = field(default_factory=dict)

    @property
    def trace(self) -> int:
        """Id of the trace."""
        return _id(16, self.digest)

    def spans(self, events: Iterable[Event]) -> Iterator[Span]:
        """Yield what the next events end; they must be given in order and each once."""
        for number, when, kind, facts in events:
            yield from self._of_event(number, _nanoseconds(when), kind, facts)

    def _of_event(
        self, number: int, at: int, kind: str, facts: Mapping[str, Any]
    ) -> Iterator[Span]:
        match kind:
            case "offered":
                self.offered = at
                self.about = {
                    "flo.study": self.digest,
                    "flo.study.name": str(facts["name"]),
                    "flo.study.version": int(facts["version"]),
                }
            case "approved" if self.offered:
                whose: dict[str, Fact] = {"flo.hospital": str(facts["hospital"])}
                yield self._span(number, self._study, "approval", self.offered, at, whose)
            case "started" | "resumed":
                self.started, self.run = at, str(facts["run"])
            case "online" if self.started:
                named: dict[str, Fact] = {"flo.hospitals": _names(facts["hospitals"])}
                yield self._span(number, self._of_run, "waiting", self.started, at, named)
            case "round" if self.started:
                begun = at - round(1e9 * float(facts["seconds"]))
                yield self._span(number, self._of_run, "round", begun, at, _where(facts))
            case "attempt-failed" if self.started:
                missing: dict[str, Fact] = {"flo.missing": _names(facts["missing"])}
                where, why = _where(facts) | missing, str(facts.get("why", "")) or "missing"
                yield self._span(number, self._of_run, "attempt", at, at, where, why)
            case "done" | "stopped" | "ended" | "paused":
                yield from self._ended(at, kind)
            case "published" if self.over:
                yield self._span(number, self._study, "publishing", self.over, at, {})

    def _ended(self, at: int, kind: str) -> Iterator[Span]:
        how: dict[str, Fact] = {"flo.ended": kind}
        if self.started:
            run = how | {"flo.run": self.run}
            yield Span(
                *self._ids(self._of_run, self._study), "run", self.started, at, self.about | run
            )
            self.started = None
        if kind != "paused" and self.offered and self.over is None:
            self.over = at
            yield Span(*self._ids(self._study, 0), "study", self.offered, at, self.about | how)

    @property
    def _study(self) -> int:
        return _id(8, self.digest, "study")

    @property
    def _of_run(self) -> int:
        return _id(8, self.digest, self.run, str(self.started))

    def _ids(self, own: int, parent: int) -> tuple[int, int, int]:
        return self.trace, own, parent

    def _span(
        self,
        number: int,
        parent: int,
        name: str,
        begun: int,
        ended: int,
        facts: Mapping[str, Fact],
        failed: str = "",
    ) -> Span:
        ids = self._ids(_id(8, self.digest, str(number)), parent)
        return Span(*ids, name, min(begun, ended), ended, self.about | dict(facts), failed)


def _where(facts: Mapping[str, Any]) -> dict[str, Fact]:
    return {
        "flo.phase": str(facts["phase"]),
        "flo.round": int(facts["round"]),
        "flo.hospitals": _names(facts["cohort"]),
    }


def _names(several: Iterable[Any]) -> tuple[str, ...]:
    return tuple(map(str, several))


def _nanoseconds(when: str) -> int:
    return round(1e9 * datetime.fromisoformat(when).timestamp())


def _id(size: int, *parts: str) -> int:
    """Return an id of so many bytes, which is not 0."""
    digest = hashlib.sha256("\n".join(("flo-trace", *parts)).encode()).digest()
    return int.from_bytes(digest[:size], "big") or 1
