"""What a coordinator measures of itself, for external monitoring.

The only values derived from patients are those that every ledger holds: rounds, cohorts, and the ε
that a study's schedule has spent so far.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import MutableMapping
from typing import Any

from starlette.types import Send

from flo.host.metrics import Metric
from flo.privacy.accounting.plan import Plan
from flo.privacy.accounting.spending import first_releases, of_training, spent
from flo.server.store.store import Offer, Store

REFUSALS = ("denied", "refused-call", "refused-connection", "refused-request")


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
