"""Metrics for external monitoring, as Prometheus text or as log lines.

CloudWatch reads the log lines as metrics ("embedded metric format", CloudWatch user guide), so AWS
needs no other access. What is measured is the business of the rooms that measure.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROMETHEUS = "text/plain; version=0.0.4"
_EVERY_SECONDS, _LARGEST = 60.0, 16 << 20


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
