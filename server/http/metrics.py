"""Metrics for external monitoring, as Prometheus text or as log lines.

The only values derived from patients are those that every ledger holds: rounds, cohorts, and the ε
that a study's schedule has spent so far. CloudWatch reads the log lines as metrics ("embedded
metric format", CloudWatch user guide), so AWS needs no other access.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.types import Send

from flo.privacy.accounting.plan import Plan
from flo.privacy.accounting.spending import first_releases, of_training, spent
from flo.server.store.store import Offer, Store

PROMETHEUS = "text/plain; version=0.0.4"
_EVERY_SECONDS, _LARGEST = 60.0, 16 << 20
REFUSALS = ("denied", "refused-call", "refused-connection", "refused-request")


@dataclass(frozen=True)
class Metric:
    """A measured value.

    ``kind``: counter or gauge. ``unit``: CloudWatch's. ``study``: its name and version, if the
    metric is about one study.
    """

    name: str
    kind: str
    unit: str
    help: str
    value: float
    study: str = ""


class Traffic:
    """Body bytes received from and sent to hospitals since this process began."""

    def __init__(self) -> None:
        self.received = self.sent = 0

    def counting(self, send: Send) -> Send:
        """Return a send that counts the body bytes."""

        async def counted(message: MutableMapping[str, Any]) -> None:
            self.sent += len(message.get("body", b""))
            await send(message)

        return counted


def measured(store: Store, traffic: Traffic, uncopied: int = 0) -> list[Metric]:
    """Return current metrics of the coordinator and of each study that has completed a round.

    ``uncopied``: number of failed attempts to copy the audit log.
    """
    counted = store.count_events()
    online = Counter(member.revoked for member in store.members())
    found = [
        Metric("hospitals", "gauge", "Count", "Hospitals enrolled and not revoked.", online[False]),
        Metric(
            "refusals",
            "counter",
            "Count",
            "Refused requests and connections in the audit log.",
            sum(counted[kind] for kind in REFUSALS),
        ),
        Metric("jobs_over", "counter", "Count", "Ended jobs of remote runs.", counted["job-over"]),
        Metric("audit_uncopied", "counter", "Count", "Failed copies of the audit log.", uncopied),
        Metric("received_bytes", "counter", "Bytes", "Received from hospitals.", traffic.received),
        Metric("sent_bytes", "counter", "Bytes", "Sent to hospitals.", traffic.sent),
        Metric(
            "process_restarts",
            "counter",
            "Count",
            "Restarts of the process that launches rounds.",
            counted["process-restarted"],
        ),
        Metric("retries", "counter", "Count", "Discarded attempts.", counted["attempt-failed"]),
    ]
    for offer in store.offers():
        found += _of_study(store, offer)
    return found


def _of_study(store: Store, offer: Offer) -> list[Metric]:
    study, last = offer.study, store.last_event(offer.study.digest, "round")
    if last is None:
        return []
    plan = Plan.of(study)
    done = store.count_events(study.digest)["round"]
    planned = {purpose: plan.purpose(purpose).planned for purpose in of_training(plan.purposes)}
    epsilon = spent(plan.purposes, first_releases(planned, done), plan.delta)
    of = f"{study.name} v{study.version}"
    return [
        Metric("rounds", "counter", "Count", "Completed rounds.", done, of),
        Metric("cohort", "gauge", "Count", "Hospitals in its last round.", len(last["cohort"]), of),
        Metric(
            "round_seconds", "gauge", "Seconds", "Length of the last round.", last["seconds"], of
        ),
        Metric(
            "epsilon_spent",
            "gauge",
            "None",
            "Spent by the schedule, without retries, by a trained patient of a hospital in every "
            "round.",
            epsilon,
            of,
        ),
    ]


def as_prometheus(metrics: Sequence[Metric]) -> str:
    """Format metrics in Prometheus's text format, version 0.0.4."""
    lines: list[str] = []
    for name in dict.fromkeys(metric.name for metric in metrics):
        several = [metric for metric in metrics if metric.name == name]
        lines += [f"# HELP flo_{name} {several[0].help}", f"# TYPE flo_{name} {several[0].kind}"]
        for metric in several:
            label = f"{{study={json.dumps(metric.study)}}}" if metric.study else ""
            lines.append(f"flo_{name}{label} {metric.value:.10g}")
    return "\n".join(lines) + "\n"


def as_embedded(metrics: Sequence[Metric], now: float) -> list[dict[str, Any]]:
    """Format metrics for CloudWatch (EMF): one entry for the coordinator, one for each study."""
    return [
        {
            "_aws": {
                "Timestamp": round(now * 1000),
                "CloudWatchMetrics": [
                    {
                        "Namespace": "FLO",
                        "Dimensions": [["study"]] if study else [[]],
                        "Metrics": [
                            {"Name": m.name, "Unit": m.unit} for m in metrics if m.study == study
                        ],
                    }
                ],
            },
            **({"study": study} if study else {}),
            **{m.name: m.value for m in metrics if m.study == study},
        }
        for study in dict.fromkeys(metric.study for metric in metrics)
    ]


class Meter:
    """Writer of one log line per minute for the coordinator and for each study.

    Counters are written as the increase since the previous line.
    """

    def __init__(self, measure: Callable[[], Sequence[Metric]], path: Path) -> None:
        self._measure, self._path = measure, path
        self._due, self._before = 0.0, dict[tuple[str, str], float]()

    def write_if_due(self) -> None:
        """Append the lines if a minute has passed. Raises OSError if the disk is full."""
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + _EVERY_SECONDS
        metrics = [self._since(metric) for metric in self._measure()]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._path.exists() and self._path.stat().st_size > _LARGEST:
            self._path.replace(self._path.with_suffix(".jsonl.1"))
        with self._path.open("a", encoding="utf-8") as file:
            for line in as_embedded(metrics, time.time()):
                file.write(json.dumps(line) + "\n")

    def _since(self, metric: Metric) -> Metric:
        if metric.kind != "counter":
            return metric
        key = (metric.name, metric.study)
        before, self._before[key] = self._before.get(key, metric.value), metric.value
        return Metric(**{**vars(metric), "value": metric.value - before})
