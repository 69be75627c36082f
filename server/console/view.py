"""Facts about studies and hospitals for the console's templates; no decisions."""

from __future__ import annotations

import statistics
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from flo.pages import plots
from flo.server.http.last_seen import LastSeen
from flo.server.keys.authority import SITE_DAYS
from flo.server.store.hospitals import Member
from flo.server.store.store import Offer, Store
from flo.server.studies.progress import StudyProgress
from flo.study.document import Study

STEPS = ("draft", "signed", "approvals", "running", "done")
_STEP_OF = {"offered": "approvals", "running": "running", "paused": "running", "done": "done"}
_EVENT_OF = {"running": "started"}  # status -> event kind, where the names differ
_CHIP = {"running": "good working", "done": "good", "paused": "warn", "ended": "bad"}
_LATE_SECONDS, _LATE_FACTOR, _RECENT = 2.0, 3.0, 10
_MOST_POINTS = 60
ABSENT = "not connected"
_RENEW_SOON_DAYS = 30


class ProgressCache:
    """Progress of each study, from its events. Each event is read once."""

    def __init__(self, store: Store) -> None:
        self._store, self._lock = store, threading.Lock()
        self._known: dict[str, StudyProgress] = {}

    def of(self, study: Study) -> StudyProgress:
        """Return a study's progress up to now, the same object at each call. Thread-safe."""
        with self._lock:
            following = self._known.setdefault(study.digest, StudyProgress(study))
            while events := self._store.events(study.digest, following.last):
                for event in events:
                    following.apply(event)
            return following


@dataclass(frozen=True)
class StudyLine:
    """A study in the list. ``word``: its state; ``chip``: the CSS classes of that state."""

    name: str
    version: int
    digest: str
    word: str
    chip: str
    approved: str
    rounds: str
    epsilon: float
    since: str


@dataclass(frozen=True)
class ParticipantView:
    """Current state of a hospital in a study.

    ``agent``, ``chip``: state of its agent, and CSS classes. ``word``: its part in the study.
    ``spent``: ε at most. ``share``: ``spent`` as a fraction of the budget.
    """

    hospital: str
    agent: str
    chip: str
    word: str
    spent: float
    share: float


@dataclass(frozen=True)
class HospitalView:
    """Current state of a hospital of the consortium, as text for the page.

    ``chip``, ``chip_of_certificate``: CSS classes. ``code``: code digest in its approval of the
    newest study, "" if it approved none. ``same_code``: whether the coordinator runs that code;
    None without an approval. ``studies``: number of studies that name it.
    """

    id: str
    fingerprint: str
    agent: str
    chip: str
    last_seen: str
    certificate: str
    chip_of_certificate: str
    code: str
    same_code: bool | None
    studies: int


class Agents(Protocol):
    """State of the agents behind Flower's nodes."""

    def is_online(self, node: int) -> bool:
        """Return whether the node's agent is connected."""

    def oldest_pending_request(self, node: int) -> float | None:
        """Return when the oldest unanswered request was made (seconds since 1970), or None."""


@dataclass
class StudyViews:
    """Reads displayed facts from the coordinator's state. ``code``: digest of its own code."""

    store: Store
    progress_cache: ProgressCache
    last_seen: LastSeen
    agents: Agents
    code: str

    # -- lists -----------------------------------------------------------------------------------

    def lines(self) -> list[StudyLine]:
        """Return a line for each study, the newest first."""
        return [self._line(offer) for offer in reversed(self.store.offers())]

    def _line(self, offer: Offer) -> StudyLine:
        study, story = offer.study, self.progress_cache.of(offer.study)
        word, chip = state_of(offer, story)
        offered = story.times.get("offered", "")  # a new study is stored just before its event
        return StudyLine(
            study.name,
            study.version,
            study.digest,
            word,
            chip,
            f"{len(story.approved)} of {len(study.hospitals)}",
            f"{story.done} of {story.planned}",
            study.largest_epsilon,
            story.times.get(_EVENT_OF.get(offer.status, offer.status), offered),
        )

    def hospitals(self) -> list[HospitalView]:
        """Return all enrolled hospitals, including revoked ones, by id."""
        nodes, offers = self.store.nodes(), self.store.offers()
        codes = self._codes(offers)
        return [self._hospital(member, nodes, offers, codes) for member in self.store.members()]

    def _hospital(
        self, member: Member, nodes: dict[str, int], offers: list[Offer], codes: dict[str, str]
    ) -> HospitalView:
        agent, chip = self._agent(member.id, nodes, member.revoked)
        last_seen = self.last_seen.seconds_since(member.id)
        code = codes.get(member.id, "")
        return HospitalView(
            member.id,
            member.fingerprint,
            agent,
            chip,
            "not since the last start" if last_seen is None else f"{last_seen:.0f} s ago",
            *_certificate(member),
            code,
            code == self.code if code else None,
            sum(any(h.id == member.id for h in offer.study.hospitals) for offer in offers),
        )

    def _codes(self, offers: list[Offer]) -> dict[str, str]:
        """Return, for each hospital, the code digest in its approval of the newest study."""
        found: dict[str, str] = {}
        for offer in offers:
            last = self.store.last_facts(offer.study.digest, "approved", by="hospital")
            found |= {hospital: str(facts.get("code", "")) for hospital, facts in last.items()}
        return found

    def _agent(
        self, hospital: str, nodes: dict[str, int], revoked: bool = False
    ) -> tuple[str, str]:
        if revoked:
            return "revoked", "bad"
        if hospital in nodes and self.agents.is_online(nodes[hospital]):
            return "online", "good"
        return ABSENT, "warn"

    # -- one study -------------------------------------------------------------------------------

    def seats(self, study: Study) -> list[ParticipantView]:
        """Return a study's hospitals, each with the ε it has spent before the evaluation."""
        story, nodes = self.progress_cache.of(study), self.store.nodes()
        usual = _usual_seconds(story)
        seats = []
        for hospital, seat in story.hospitals.items():
            agent, chip = self._agent(hospital, nodes)
            since = (
                self.agents.oldest_pending_request(nodes[hospital]) if agent == "online" else None
            )
            if since is not None:
                working = max(0.0, time.time() - since)
                late = working > max(_LATE_SECONDS, _LATE_FACTOR * usual)
                agent = f"late, {working:.0f} s" if late else f"at work, {working:.1f} s"
                chip = "warn" if late else "good working"
            spent = story.spent(hospital)
            seats.append(
                ParticipantView(
                    hospital, agent, chip, seat.status, spent, spent / max(story.budget, 1e-12)
                )
            )
        return seats

    def version(self) -> object:
        """Return a value that changes with each stored event."""
        return self.store.last_event_number()


def state_of(offer: Offer, story: StudyProgress) -> tuple[str, str]:
    """Return a study's state in words, and its CSS classes."""
    if offer.status == "offered":
        missing = len(offer.study.hospitals) - len(story.approved) - story.refused
        said = [f"{story.refused} refused"] if story.refused else []
        said += [f"waiting for {missing} approvals"] if missing else []
        return ", ".join(
            said
        ) or story.postponed or "about to start", "warn" if story.refused else ""
    return offer.status, _CHIP.get(offer.status, "")


def step_of(offer: Offer, *, has_run: bool) -> int:
    """Return a study's index in ``STEPS``; for a stopped or ended one, the last step it reached."""
    return STEPS.index(_STEP_OF.get(offer.status, "running" if has_run else "approvals"))


def seconds_plot(story: StudyProgress) -> plots.Plane | None:
    """Plot seconds of each training round; crosses mark rounds that needed a retry."""
    rounds = [one for one in story.rounds if one.phase == "training"]
    if not rounds:
        return None
    return plots.plane(
        [("seconds", [(one.number, one.seconds) for one in rounds])],
        most_across=max(story.study.mechanism.steps, 1),
        least_top=0.1,
        marks=[(one.number, one.seconds) for one in rounds if one.retries],
    )


def epsilon_plot(story: StudyProgress) -> plots.Plane | None:
    """Plot ε against releases, up to the largest count of any hospital; limit: the study's ε."""
    done = story.most_releases
    if not done:
        return None
    every = max(1, -(-done // _MOST_POINTS))
    counts = sorted({*range(0, done + 1, every), done})
    return plots.plane(
        [("spent", story.spent_by_release(counts))],
        most_across=max(story.planned, done),
        least_top=story.budget,
        limit=story.budget,
    )


def _certificate(member: Member) -> tuple[str, str]:
    """Return when a hospital's certificate ends, as text, and its CSS classes."""
    if member.revoked:
        return "revoked", "bad"
    if not member.certified:  # issued by FLO 0.4 or earlier, and not renewed since
        return "end unknown", ""
    ends = datetime.fromisoformat(member.certified) + timedelta(days=SITE_DAYS)
    left = (ends - datetime.now(UTC)).days
    look = "bad" if left < 0 else "warn" if left < _RENEW_SOON_DAYS else "good"
    return f"ends in {left} days", look


def _usual_seconds(story: StudyProgress) -> float:
    recent = [one.seconds for one in story.rounds[-_RECENT:]]
    return statistics.median(recent) if recent else story.study.limits.deadline_seconds / 4
