"""Metrics: the page and the dashboard are as the code has them, and an operator finds enough."""

from __future__ import annotations

import json
import re

from tests.paths import ROOT
from tools import metrics

ALL = {kind.name: kind for kinds in metrics.PARTS.values() for kind in kinds}
MAKE = "python -m tools.metrics"


def test_the_page_is_as_the_code_has_it() -> None:
    assert metrics.PAGE.read_text(encoding="utf-8") == metrics.page(), MAKE


def test_the_dashboard_is_as_the_code_has_it() -> None:
    assert json.loads(metrics.DASHBOARD.read_text(encoding="utf-8")) == metrics.dashboard(), MAKE


def test_there_are_fifty_and_each_has_one_name_and_says_what_it_is() -> None:
    assert len(ALL) == sum(map(len, metrics.PARTS.values())) >= 50
    for name, kind in ALL.items():
        assert re.fullmatch(r"[a-z][a-z_]+", name)
        assert kind.help.endswith(".")
        assert kind.type in ("counter", "gauge", "histogram")
        assert kind.unit in ("Count", "Seconds", "Bytes", "None")


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    panels = json.loads(metrics.DASHBOARD.read_text(encoding="utf-8"))["panels"]
    asked = " ".join(one["expr"] for panel in panels for one in panel.get("targets", []))
    named = {name.removesuffix("_bucket") for name in re.findall(r"flo_([a-z_]+)", asked)}
    assert named == set(ALL)


def test_alarms_of_the_aws_template_are_about_metrics_that_have_no_label() -> None:
    template = (ROOT / "infra" / "aws" / "flo.yaml").read_text(encoding="utf-8")
    named = re.findall(r"Namespace: FLO\n\s+MetricName: (\w+)", template)
    assert len(named) >= 3
    assert {name for name in named if ALL[name].labels} == set()


def test_no_two_panels_lie_over_each_other() -> None:
    taken = set[tuple[int, int]]()
    for panel in metrics.dashboard()["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert not cells & taken
        assert at["x"] + at["w"] <= 24
        taken |= cells
    ids = [panel["id"] for panel in metrics.dashboard()["panels"]]
    assert len(set(ids)) == len(ids)
