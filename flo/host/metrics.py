"""Metrics for external monitoring, as Prometheus text or as log lines.

CloudWatch reads the log lines as metrics ("embedded metric format", CloudWatch user guide), so AWS
needs no other access. What is measured is the business of the rooms that measure.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

PROMETHEUS = "text/plain; version=0.0.4"
_EVERY_SECONDS, _LARGEST = 60.0, 16 << 20


@dataclass(frozen=True)
class Kind:
    """A metric that is known: what it is called and means.

    ``type``: of Prometheus, counter or gauge; or histogram, which only a server of models has.
    ``unit``: CloudWatch's. ``labels``: what several values of it are told apart by.
    """

    name: str
    type: str
    unit: str
    help: str
    labels: tuple[str, ...] = ()

    def of(self, value: float, *labels: str) -> Metric:
        """Return a measured value, with what each label is."""
        return Metric(self, float(value), tuple(zip(self.labels, labels, strict=True)))


@dataclass(frozen=True)
class Metric:
    """A measured value. ``labels``: name and value of each."""

    kind: Kind
    value: float
    labels: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """Name of its kind."""
        return self.kind.name


def as_prometheus(metrics: Sequence[Metric]) -> str:
    """Format metrics in Prometheus's text format, version 0.0.4."""
    lines: list[str] = []
    for kind in dict.fromkeys(metric.kind for metric in metrics):
        lines += [f"# HELP flo_{kind.name} {kind.help}", f"# TYPE flo_{kind.name} {kind.type}"]
        for metric in metrics:
            if metric.kind == kind:
                named = ",".join(f"{name}={json.dumps(value)}" for name, value in metric.labels)
                label = f"{{{named}}}" if named else ""
                lines.append(f"flo_{kind.name}{label} {metric.value:.10g}")
    return "\n".join(lines) + "\n"


def as_embedded(metrics: Sequence[Metric], now: float) -> list[dict[str, Any]]:
    """Format metrics for CloudWatch (EMF): one entry for all without a label, and one for each
    combination of labels."""
    return [
        {
            "_aws": {
                "Timestamp": round(now * 1000),
                "CloudWatchMetrics": [
                    {
                        "Namespace": "FLO",
                        "Dimensions": [[name for name, _ in labels]],
                        "Metrics": [
                            {"Name": one.name, "Unit": one.kind.unit}
                            for one in metrics
                            if one.labels == labels
                        ],
                    }
                ],
            },
            **dict(labels),
            **{one.name: one.value for one in metrics if one.labels == labels},
        }
        for labels in dict.fromkeys(metric.labels for metric in metrics)
    ]


def of_machine(folder: Path, kinds: Sequence[Kind], began: float) -> list[Metric]:
    """Return what every process measures of itself: uptime, memory, and the folder's free disk.

    ``kinds``: of these three, in this order. ``began``: of ``time.monotonic``.
    """
    uptime, memory, disk = kinds
    return [
        uptime.of(time.monotonic() - began),
        memory.of(_resident_bytes()),
        disk.of(shutil.disk_usage(folder).free),
    ]


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Meter:
    """Writer of log lines per minute, one for each combination of labels, and of a file that
    Prometheus's node exporter reads (its textfile collector), if one is named.

    In the log, counters are the increase since the previous line.
    """

    def __init__(
        self, measure: Callable[[], Sequence[Metric]], path: Path, textfile: Path | None = None
    ) -> None:
        self._measure, self._path, self._textfile = measure, path, textfile
        self._due, self._before = 0.0, dict[tuple[object, object], float]()

    def write_if_due(self) -> None:
        """Append the lines if a minute has passed. Raises OSError if the disk is full."""
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + _EVERY_SECONDS
        measured = self._measure()
        metrics = [self._since(metric) for metric in measured]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._textfile is not None:
            part = self._textfile.with_suffix(".part")
            part.write_text(as_prometheus(measured), encoding="utf-8")
            part.replace(self._textfile)  # a reader sees a whole file
        if self._path.exists() and self._path.stat().st_size > _LARGEST:
            self._path.replace(self._path.with_suffix(".jsonl.1"))
        with self._path.open("a", encoding="utf-8") as file:
            for line in as_embedded(metrics, time.time()):
                file.write(json.dumps(line) + "\n")

    def _since(self, metric: Metric) -> Metric:
        if metric.kind.type != "counter":
            return metric
        key = (metric.name, metric.labels)
        before, self._before[key] = self._before.get(key, metric.value), metric.value
        return replace(metric, value=metric.value - before)
