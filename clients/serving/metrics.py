"""What a server of models measures: counts and latencies, by model and outcome. No patient's data.

They stay in the hospital: how often a model is used may tell how many patients there are. Models
that were finished here are left out: that there is one is no business of this machine's other
users.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

from flo.clients.serving.answering import AnsweringModels
from flo.clients.serving.pool import Pool
from flo.clients.serving.recorder import Recorder
from flo.host.metrics import Kind, Metric, as_prometheus, of_machine

BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # seconds


def _gauge(name: str, unit: str, help_: str, *labels: str) -> Kind:
    return Kind(f"serve_{name}", "gauge", unit, help_, labels)


def _counter(name: str, help_: str, *labels: str) -> Kind:
    return Kind(f"serve_{name}", "counter", "Count", help_, labels)


MODELS = _gauge("models", "Count", "Models that answer.")
WORKERS = _gauge("workers", "Count", "Processes that score.")
ENDS = _counter("worker_ends", "Workers that ended.")
OPEN = _gauge("questions", "Count", "Questions that wait for their answer.")
GROUPS = _counter("groups", "Groups of the log of answers, each flushed to disk once.")
ANSWERS = _counter("answers", "Answers sent.", "model", "version", "outcome")
REFUSED = _counter("refused", "Requests refused.", "why")
COMPARED = _gauge("compared", "Count", "Versions that are compared with the one in use.", "model")
HEALTH = _gauge("health", "None", "Health of a model, 0 to 100; below 85 is an alarm.", "model")
ALARMS = _gauge("alarms", "Count", "Alarms of monitors that nobody has settled.", "model")
LEARNING = _gauge("learning", "None", "1 while what is usual is still being counted.", "model")
UNCOUNTED = _counter("uncounted", "Answers that were too many to be counted by monitors.")
UPTIME = _gauge("uptime_seconds", "Seconds", "Since the front's process began.")
MEMORY = _gauge("memory_bytes", "Bytes", "Memory of the front's process.")
DISK = _gauge("disk_free_bytes", "Bytes", "Free on the disk of the site's folder.")
SECONDS = Kind("serve_seconds", "histogram", "Seconds", "Time from request to answer.", ("le",))
KINDS = (
    *(MODELS, WORKERS, ENDS, OPEN, GROUPS, ANSWERS, REFUSED, COMPARED, HEALTH, ALARMS, LEARNING),
    *(UNCOUNTED, UPTIME, MEMORY, DISK, SECONDS),
)


class Served:
    """Counters of one front since it began."""

    def __init__(self) -> None:
        self.answers = Counter[tuple[str, int, str]]()  # model, version, outcome
        self.refused = Counter[str]()
        self._buckets, self._seconds, self._count = [0] * (len(BUCKETS) + 1), 0.0, 0
        self._began, self._finished = time.monotonic(), set[str]()  # names, since then

    def answered(self, name: str, version: int, outcome: str, seconds: float) -> None:
        """Count an answer that was sent, and how long it took from the request's first byte."""
        self.answers[name, version, outcome] += 1
        place = next((i for i, most in enumerate(BUCKETS) if seconds <= most), len(BUCKETS))
        self._buckets[place] += 1
        self._seconds += seconds
        self._count += 1

    def text(self, models: AnsweringModels, pool: Pool, recorder: Recorder, folder: Path) -> str:
        """Return all metrics in Prometheus's text format. ``folder``: of the site."""
        found = [
            MODELS.of(sum(state.ready is not None for state in models.states.values())),
            WORKERS.of(pool.size),
            ENDS.of(pool.restarts),
            OPEN.of(pool.open),
            GROUPS.of(recorder.groups),
            *self._of_models(models),
            *(REFUSED.of(count, why) for why, count in sorted(self.refused.items())),
            UNCOUNTED.of(models.watching.lost),
            *of_machine(folder, (UPTIME, MEMORY, DISK), self._began),
        ]
        return as_prometheus(found) + self._histogram()

    def _of_models(self, models: AnsweringModels) -> Iterator[Metric]:
        self._finished |= models.finished
        finished = self._finished
        for (name, version, outcome), count in sorted(self.answers.items()):
            if name not in finished:
                yield ANSWERS.of(count, name, str(version), outcome)
        for name, state in models.states.items():
            if name in finished:
                continue
            if state.comparison is not None:
                yield COMPARED.of(len(state.comparison.versions), name)
            standing = models.watching.standing(name)
            if standing is not None:
                yield HEALTH.of(standing.health, name)
                yield ALARMS.of(standing.alarms, name)
                yield LEARNING.of(standing.is_learning, name)

    def _histogram(self) -> str:
        name, ends = f"flo_{SECONDS.name}", [*map(str, BUCKETS), "+Inf"]
        lines = [f"# HELP {name} {SECONDS.help}", f"# TYPE {name} {SECONDS.type}"]
        for end, count in zip(ends, accumulate(self._buckets), strict=True):
            lines.append(f'{name}_bucket{{le="{end}"}} {count}')
        lines += [f"{name}_sum {self._seconds:.6g}", f"{name}_count {self._count}"]
        return "\n".join(lines) + "\n"
