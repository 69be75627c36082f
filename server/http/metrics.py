"""What a coordinator measures of itself, for external monitoring.

The only values derived from patients are those that every ledger holds: rounds, cohorts, and the ε
that a study's schedule has spent so far.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, MutableMapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from starlette.types import Send

from flo.host.metrics import Kind, Metric, of_machine
from flo.privacy.accounting.plan import Plan
from flo.privacy.accounting.spending import first_releases, of_training, spent
from flo.server.http.last_seen import LastSeen
from flo.server.store.store import Offer, Store

REFUSALS = ("denied", "refused-call", "refused-connection", "refused-request")
_HERE_SECONDS = 60.0  # since its last request, a hospital counts as connected


def _gauge(name: str, unit: str, help_: str, *labels: str) -> Kind:
    return Kind(name, "gauge", unit, help_, labels)


def _counter(name: str, unit: str, help_: str, *labels: str) -> Kind:
    return Kind(name, "counter", unit, help_, labels)


HOSPITALS = _gauge("hospitals", "Count", "Hospitals enrolled and not revoked.")
REVOKED = _gauge("hospitals_revoked", "Count", "Hospitals whose certificate was revoked.")
CONNECTED = _gauge("hospitals_connected", "Count", "Hospitals heard of within a minute.")
SILENT = _gauge(
    "hospital_silent_seconds",
    "Seconds",
    "Since a hospital was heard of last, by this process.",
    "hospital",
)
REFUSED = _counter("refusals", "Count", "Refused requests and connections in the audit log.")
BEGUN = _counter("jobs_begun", "Count", "Begun jobs of remote runs.")
POSTPONED = _counter("runs_postponed", "Count", "Plans to start a run when electricity is cleaner.")
JOBS = _counter("jobs_over", "Count", "Ended jobs of remote runs.")
UNCOPIED = _counter("audit_uncopied", "Count", "Failed copies of the audit log.")
RECEIVED = _counter("received_bytes", "Bytes", "Received from hospitals.")
SENT = _counter("sent_bytes", "Bytes", "Sent to hospitals.")
RESTARTS = _counter("process_restarts", "Count", "Restarts of the process that launches rounds.")
EVENTS = _counter("events", "Count", "Events of all kinds.")
STUDIES = _gauge("studies", "Count", "Studies by what they are doing.", "status")
DECISIONS = _counter("model_decisions", "Count", "Decisions on versions of models.")
PUBLISHED = _counter("models_published", "Count", "Models that were published.")
UPTIME = _gauge("coordinator_uptime_seconds", "Seconds", "Since the coordinator's process began.")
MEMORY = _gauge("coordinator_memory_bytes", "Bytes", "Memory of the coordinator's process.")
DISK = _gauge("coordinator_disk_free_bytes", "Bytes", "Free on the disk of the coordinator.")

ROUNDS = _counter("rounds", "Count", "Completed rounds.", "study")
PLANNED = _gauge("rounds_planned", "Count", "Rounds that the study plans, of any kind.", "study")
RETRIES = _counter("retries", "Count", "Discarded attempts.", "study")
COHORT = _gauge("cohort", "Count", "Hospitals in its last round.", "study")
INVITED = _gauge("study_hospitals", "Count", "Hospitals that the study names.", "study")
APPROVED = _gauge("study_approvals", "Count", "Hospitals whose approval is in force.", "study")
SECONDS = _gauge("round_seconds", "Seconds", "Length of the last round.", "study")
SINCE = _gauge("round_age_seconds", "Seconds", "Since the last round ended.", "study")
DEADLINE = _gauge("deadline_seconds", "Seconds", "Deadline of a round.", "study")
LEFT = _gauge("study_expires_seconds", "Seconds", "Until the study expires.", "study")
EPSILON = _gauge(
    "epsilon_spent",
    "None",
    "Spent by the schedule, without retries, by a trained patient of a hospital in every round.",
    "study",
)
TOTAL = _gauge("epsilon_planned", "None", "What the whole schedule spends, as above.", "study")
CARBON = _gauge("carbon_grams", "None", "CO2 that its last run emitted, estimated.", "study")
KINDS = (
    *(HOSPITALS, REVOKED, CONNECTED, SILENT, REFUSED, BEGUN, JOBS, UNCOPIED, RECEIVED, SENT),
    *(RESTARTS, POSTPONED),
    *(EVENTS, STUDIES, DECISIONS, PUBLISHED, UPTIME, MEMORY, DISK),
    *(ROUNDS, PLANNED, RETRIES, COHORT, INVITED, APPROVED, SECONDS, SINCE, DEADLINE, LEFT),
    *(EPSILON, TOTAL, CARBON),
)


class Traffic:
    """Body bytes received from and sent to hospitals since this process began."""

    def __init__(self) -> None:
        self.received = self.sent = 0
        self.began = time.monotonic()

    def counting(self, send: Send) -> Send:
        """Return a send that counts the body bytes."""

        async def counted(message: MutableMapping[str, Any]) -> None:
            self.sent += len(message.get("body", b""))
            await send(message)

        return counted


def measured(
    store: Store, traffic: Traffic, seen: LastSeen, folder: Path, uncopied: int = 0
) -> list[Metric]:
    """Return current metrics of the coordinator and of each study.

    ``folder``: of the coordinator. ``uncopied``: number of failed attempts to copy the audit log.
    """
    counted, offers = store.count_events(), store.offers()
    return [
        *_of_hospitals(store, seen),
        REFUSED.of(sum(counted[kind] for kind in REFUSALS)),
        BEGUN.of(counted["job-begun"]),
        JOBS.of(counted["job-over"]),
        POSTPONED.of(counted["postponed"]),
        UNCOPIED.of(uncopied),
        RECEIVED.of(traffic.received),
        SENT.of(traffic.sent),
        RESTARTS.of(counted["process-restarted"]),
        EVENTS.of(sum(counted.values())),
        DECISIONS.of(counted["model-decided"]),
        PUBLISHED.of(counted["published"]),
        *(STUDIES.of(n, status) for status, n in Counter(o.status for o in offers).items()),
        *of_machine(folder, (UPTIME, MEMORY, DISK), traffic.began),
        *(metric for offer in offers for metric in _of_study(store, offer)),
    ]


def _of_hospitals(store: Store, seen: LastSeen) -> Iterator[Metric]:
    members = store.members()
    online = Counter(member.revoked for member in members)
    silent = {
        member.id: seconds
        for member in members
        if not member.revoked and (seconds := seen.seconds_since(member.id)) is not None
    }
    yield HOSPITALS.of(online[False])
    yield REVOKED.of(online[True])
    yield CONNECTED.of(sum(seconds <= _HERE_SECONDS for seconds in silent.values()))
    yield from (SILENT.of(seconds, hospital) for hospital, seconds in silent.items())


def _of_study(store: Store, offer: Offer) -> Iterator[Metric]:
    study, last = offer.study, store.last_event(offer.study.digest, "round")
    of, counted = f"{study.name} v{study.version}", store.count_events(study.digest)
    plan = Plan.of(study)
    planned = {purpose: plan.purpose(purpose).planned for purpose in of_training(plan.purposes)}
    end = datetime.combine(study.expires, datetime.max.time(), tzinfo=UTC)
    yield INVITED.of(len(study.hospitals), of)
    yield APPROVED.of(len(store.approvals(study.digest)), of)
    yield LEFT.of((end - datetime.now(UTC)).total_seconds(), of)
    yield DEADLINE.of(study.limits.deadline_seconds, of)
    yield PLANNED.of(sum(plan.purpose(purpose).planned for purpose in plan.purposes), of)
    yield TOTAL.of(spent(plan.purposes, planned, plan.delta), of)
    yield RETRIES.of(counted["attempt-failed"], of)
    if emitted := store.last_event(study.digest, "emitted"):
        yield CARBON.of(emitted["grams"], of)
    if last is None:
        return
    done = counted["round"]
    yield ROUNDS.of(done, of)
    yield COHORT.of(len(last["cohort"]), of)
    yield SECONDS.of(last["seconds"], of)
    yield SINCE.of(_age(store, study.digest), of)
    yield EPSILON.of(spent(plan.purposes, first_releases(planned, done), plan.delta), of)


def _age(store: Store, study: str) -> float:
    """Return the seconds since a study's last round."""
    found = store.last_time(study, "round")
    return 0.0 if found is None else (datetime.now(UTC) - found).total_seconds()
