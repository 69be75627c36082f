"""What a server of models measures: counts and latencies, by model and outcome. No patient's data.

They stay in the hospital: how often a model is used may tell how many patients there are.
"""

from __future__ import annotations

from collections import Counter
from itertools import accumulate

from flo.clients.serving.answering import AnsweringModels
from flo.clients.serving.pool import Pool
from flo.clients.serving.recorder import Recorder
from flo.host.metrics import Metric, as_prometheus

_HEALTH = "# HELP flo_serve_health Health of a model at work, 0 to 100; below 85 is an alarm."
BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # seconds


class Served:
    """Counters of one front since it began."""

    def __init__(self) -> None:
        self.answers = Counter[tuple[str, int, str]]()  # model, version, outcome
        self.refused = Counter[str]()
        self._buckets, self._seconds, self._count = [0] * (len(BUCKETS) + 1), 0.0, 0

    def answered(self, name: str, version: int, outcome: str, seconds: float) -> None:
        """Count an answer that was sent, and how long it took from the request's first byte."""
        self.answers[name, version, outcome] += 1
        place = next((i for i, most in enumerate(BUCKETS) if seconds <= most), len(BUCKETS))
        self._buckets[place] += 1
        self._seconds += seconds
        self._count += 1

    def text(self, models: AnsweringModels, pool: Pool, recorder: Recorder) -> str:
        """Return all metrics in Prometheus's text format."""
        ready = sum(state.ready is not None for state in models.states.values())
        plain = [
            Metric("serve_models", "gauge", "Count", "Models that answer.", ready),
            Metric("serve_workers", "gauge", "Count", "Processes that score.", pool.size),
            Metric("serve_worker_ends", "counter", "Count", "Workers that ended.", pool.restarts),
            Metric("serve_groups", "counter", "Count", "Groups of the log.", recorder.groups),
        ]
        lines = [as_prometheus(plain).rstrip("\n")]
        lines += ["# HELP flo_serve_answers Answers sent.", "# TYPE flo_serve_answers counter"]
        finished = models.finished
        for (name, version, outcome), count in sorted(self.answers.items()):
            if name in finished:  # that it exists is no business of this machine's other users
                continue
            labels = f'model="{name}",version="{version}",outcome="{outcome}"'
            lines.append(f"flo_serve_answers{{{labels}}} {count}")
        lines += _of_health(models, finished)
        lines += ["# HELP flo_serve_refused Requests refused.", "# TYPE flo_serve_refused counter"]
        for why, count in sorted(self.refused.items()):
            lines.append(f'flo_serve_refused{{why="{why}"}} {count}')
        lines += [
            "# HELP flo_serve_seconds Time from request to answer.",
            "# TYPE flo_serve_seconds histogram",
        ]
        ends = [*map(str, BUCKETS), "+Inf"]
        for end, count in zip(ends, accumulate(self._buckets), strict=True):
            lines.append(f'flo_serve_seconds_bucket{{le="{end}"}} {count}')
        lines += [f"flo_serve_seconds_sum {self._seconds:.6g}"]
        lines += [f"flo_serve_seconds_count {self._count}"]
        return "\n".join(lines) + "\n"


def _of_health(models: AnsweringModels, finished: set[str]) -> list[str]:
    health = models.watching.health
    return [
        *(_HEALTH, "# TYPE flo_serve_health gauge"),
        *(
            f'flo_serve_health{{model="{name}"}} {value:.1f}'
            for name, value in sorted(health.items())
            if name not in finished
        ),
    ]
