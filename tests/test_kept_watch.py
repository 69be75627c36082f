"""What the first FLO with monitors kept: ``tests/kept/v16``.

A signed plan (schema 1), and the state of a month's monitors with one alarm (schema 1), as in the
file of a watched version, there sealed.
"""

from __future__ import annotations

import json

from flo.clients.watching.alarm import Key
from flo.clients.watching.plan import WatchPlan
from flo.clients.watching.words import in_words
from flo.documents.document import read_json
from tests.clients.watching.builders import FIRST, new_watch
from tests.paths import ROOT

KEPT = ROOT / "tests" / "kept" / "v16"


def test_a_plan_still_holds() -> None:
    plan = read_json(WatchPlan, KEPT / "plan.json", limit=1 << 18)
    plan.check(bytes.fromhex((KEPT / "hospital.txt").read_text().strip()))
    assert (plan.name, plan.by, plan.follow_up_days) == ("tiny", "Ada", 14)
    assert plan.action([Key("outcomes", "all patients")]) == "fall back"
    assert plan.action([Key("column", "crea"), Key("risk")]) == "stop"


def test_monitors_go_on_with_their_alarm() -> None:
    kept = json.loads((KEPT / "watch.json").read_text())
    watch = new_watch()
    watch.take_state(kept["state"])
    for ward, day, counts in kept["days"]:
        (watch.wards[ward] if ward else watch.hospital).take_day(day, counts)
    assert watch.look(FIRST + 30) == [], "it was raised before"
    assert watch.health == 0
    (alarm,) = watch.alarms
    assert alarm.key == Key("column", "crea")
    assert "arrives in µmol/L instead of mg/dL" in in_words(watch, alarm).words
    assert list(watch.wards) == ["ward 0", "ward 1"]
