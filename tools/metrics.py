"""The page of all metrics, and Grafana's dashboard of them, made from the code.

``python -m tools.metrics`` writes docs/operating/metrics.md and docs/_static/flo-grafana.json.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flo.clients.agent.metrics import KINDS as SITE
from flo.clients.serving.metrics import KINDS as SERVING
from flo.host.metrics import Kind
from flo.server.http.metrics import KINDS as COORDINATOR

_DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, DASHBOARD = _DOCS / "operating" / "metrics.md", _DOCS / "_static" / "flo-grafana.json"
PARTS = {"Coordinator": COORDINATOR, "Site": SITE, "Models at work": SERVING}
_WHERE = {
    "Coordinator": "On the private listener at `/v1/flo/metrics`, and every minute in "
    "`log/metrics.prom` and `log/metrics.jsonl` of the coordinator's folder.",
    "Site": "An agent opens no port. It writes `log/metrics.prom` and `log/metrics.jsonl` of the "
    "site's folder every minute.",
    "Models at work": "On `metrics_port` of 127.0.0.1, as `serve.toml` says "
    "([a model at work](../serving.md)).",
}
_INTRO = """# All metrics

Made from the code by `python -m tools.metrics`. [Monitoring](monitor.md) says what to watch for.
`metrics.prom` is for the textfile collector of Prometheus's node exporter, `metrics.jsonl` for
CloudWatch (embedded metric format; counters are the increase since the line before). No metric has
a patient's value, and no name in a label is a patient's.

A dashboard of all of them for Grafana is [here](../_static/flo-grafana.json): import the file, and
choose your Prometheus as its data source.
"""
_WIDTH, _HEIGHT, _ACROSS = 8, 7, 3
_SOURCE = {"type": "prometheus", "uid": "${source}"}


def page() -> str:
    """Return the page of all metrics, in Markdown."""
    return "\n".join([_INTRO, *(line for name in PARTS for line in _table(name))])


def _table(name: str) -> Iterator[str]:
    yield f"## {name}\n\n{_WHERE[name]}\n"
    yield "| metric | kind | unit | labels | what it is |\n|---|---|---|---|---|"
    for kind in PARTS[name]:
        labels = ", ".join(f"`{label}`" for label in kind.labels)
        unit = "" if kind.unit in ("None", "Count") else kind.unit.lower()
        yield f"| `flo_{kind.name}` | {kind.type} | {unit} | {labels} | {kind.help} |"
    yield ""


def dashboard() -> dict[str, Any]:
    """Return Grafana's dashboard (its schema 39): a row for each part, a panel for each metric."""
    panels, at = list[dict[str, Any]](), 0
    for name, kinds in PARTS.items():
        place = {"x": 0, "y": at, "w": _WIDTH * _ACROSS, "h": 1}
        panels.append(
            {"id": len(panels) + 1, "type": "row", "title": name, "gridPos": place, "panels": []}
        )
        at += 1
        for number, kind in enumerate(kinds):
            x, y = _WIDTH * (number % _ACROSS), at + _HEIGHT * (number // _ACROSS)
            place = {"x": x, "y": y, "w": _WIDTH, "h": _HEIGHT}
            panels.append(_panel(kind, len(panels) + 1, place))
        at += _HEIGHT * -(-len(kinds) // _ACROSS)
    return {
        "title": "FLO",
        "uid": "flo",
        "schemaVersion": 39,
        "editable": True,
        "refresh": "1m",
        "time": {"from": "now-24h", "to": "now"},
        "templating": {
            "list": [
                {"name": "source", "label": "Prometheus", "type": "datasource"}
                | {"query": "prometheus"}
            ]
        },
        "panels": panels,
    }


def _panel(kind: Kind, number: int, place: dict[str, int]) -> dict[str, Any]:
    units = {"Seconds": "s", "Bytes": "bytes"}
    return {
        "id": number,
        "type": "timeseries",
        "title": f"{kind.help.rstrip('.')}{' (per second)' if kind.type == 'counter' else ''}",
        "gridPos": place,
        "datasource": _SOURCE,
        "fieldConfig": {
            "defaults": {"unit": units.get(kind.unit, "short"), **_thresholds(kind)},
            "overrides": [],
        },
        "targets": list(_targets(kind)),
    }


def _targets(kind: Kind) -> Iterator[dict[str, Any]]:
    name, legend = f"flo_{kind.name}", " ".join(f"{{{{{label}}}}}" for label in kind.labels)
    if kind.type == "histogram":
        for letter, part in (("A", "0.5"), ("B", "0.99")):
            of = f"histogram_quantile({part}, sum by (le) (rate({name}_bucket[5m])))"
            yield {"refId": letter, "datasource": _SOURCE, "expr": of, "legendFormat": part}
        return
    expression = f"rate({name}[5m])" if kind.type == "counter" else name
    yield {"refId": "A", "datasource": _SOURCE, "expr": expression, "legendFormat": legend}


def _thresholds(kind: Kind) -> dict[str, Any]:
    """Return where a panel turns red: health below 85."""
    if kind.name != "serve_health":
        return {}
    steps = [{"color": "red", "value": None}, {"color": "green", "value": 85}]
    shown = {"thresholdsStyle": {"mode": "line"}}
    return {"min": 0, "max": 100, "custom": shown} | {
        "thresholds": {"mode": "absolute", "steps": steps}
    }


def _main() -> None:
    PAGE.write_text(page(), encoding="utf-8")
    DASHBOARD.write_text(json.dumps(dashboard(), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    _main()
