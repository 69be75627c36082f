"""What the first FLO kept of monitors across hospitals at a hospital: ``tests/kept/v18``.

A signed plan that names them, the site's file of a series of four periods, and the state of a
month's monitors (schema 2, sealed at a site): the alarm of period 2 is settled, that of period 4
stands.
"""

from __future__ import annotations

import json

from flo.clients.watching.alarm import Key
from flo.clients.watching.plan import WatchPlan
from flo.clients.watching.words import in_words
from flo.documents.document import read_json
from flo.published.monitor_result import from_list
from flo.published.monitor_series import series
from tests.clients.watching.builders import FIRST, new_watch
from tests.paths import ROOT

KEPT = ROOT / "tests" / "kept" / "v18"


def test_a_plan_still_holds() -> None:
    plan = read_json(WatchPlan, KEPT / "plan.json", limit=1 << 18)
    plan.check(bytes.fromhex((KEPT / "hospital.txt").read_text().strip()))
    assert plan.action([Key("hospitals")]) == "fall back"


def test_an_alarm_stands_and_what_was_settled_stays_settled() -> None:
    kept = json.loads((KEPT / "watch.json").read_text())
    coordinator = (KEPT / "coordinator.txt").read_text().strip()
    watch = new_watch()
    watch.take_state(kept["state"])
    for ward, day, counts in kept["days"]:
        (watch.wards[ward] if ward else watch.hospital).take_day(day, counts)
    watch.across.series = series(from_list((KEPT / "monitor.json").read_bytes()), coordinator)
    assert watch.look(FIRST + 30) == [], "it was raised before"
    assert watch.health < 85
    (alarm,) = watch.alarms
    assert "found in period 4 of its monitor" in in_words(watch, alarm).words
    watch.settle(alarm.number, as_usual=False)
    watch.look(FIRST + 30)
    assert watch.health == 100
