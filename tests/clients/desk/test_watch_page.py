"""The desk's page of a model's monitors, and the commands beside it."""

from __future__ import annotations

import json
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flo.clients.home.site_home import SiteHome
from flo.clients.records import watched_answers
from flo.clients.records.outcome_reports import report
from flo.clients.watching import plan_decisions
from flo.clients.watching.kept import KeptWatch, Watched
from flo.errors import EXIT_OK, EXIT_USAGE, TrustError
from tests.clients.desk.test_desk import open_by_link, serving
from tests.clients.serving.served_site import V9, served_site
from tests.clients.serving.test_all_hospitals_at_work import arrived
from tests.clients.watching.builders import DAY, a_dull_month
from tests.commands import flo

pytestmark = pytest.mark.processes
WATCHED = Watched.of(V9.open())
WHY = "the laboratory sends years again"


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    """Patients of version 9 are 30 years younger since two days."""
    found = served_site(tmp_path / "north")
    a_dull_month(found, WATCHED, changed_days=2)
    return found


def with_outcomes(home: SiteHome) -> None:
    """Half of the patients of a month had the outcome; the card stated a fifth."""
    outcomes = {f"{day:018}{n:018}": n % 2 == 0 for day in range(5, 40) for n in range(40)}
    report(home, (), outcomes, time.time() - 2 * DAY)
    with closing(KeptWatch(home, WATCHED)) as kept:
        kept.take([], 3, time.time())


def commands(home: SiteHome, *words: Any) -> Any:
    return flo("model", *words, "--home", home.directory)


def entries(home: SiteHome, kind: str) -> list[dict[str, Any]]:
    with closing(home.open_audit_log()) as log:
        return [one.facts for one in log.entries() if one.kind == kind]


def test_the_page_says_what_changed_and_settles_it(home: SiteHome) -> None:
    with_outcomes(home)
    with serving(home) as desk:
        opened = open_by_link(desk)
        page = opened.get("/models/tiny/watch")
        assert "Health 0 of 100" in page
        assert "Age has a median of 20" in page
        assert "All patients: more outcomes than the model states" in page
        assert page.count('class="dot"') == 1, "a week of outcomes"
        assert "It is said here, and nothing else happens" in page
        numbers = {number for number in range(1, 9) if f"Settle alarm {number}<" in page}
        assert opened.post("/models/tiny/watch/settle", alarm="x", why=WHY)[0] == 400
        of = {"watch": WATCHED.id}
        assert opened.post("/models/tiny/watch/settle", alarm="99", why=WHY, **of)[0] == 400
        assert opened.post("/models/tiny/watch/settle", alarm="1", why=WHY)[0] == 400, "which one?"
        for number in numbers:
            given = {"alarm": str(number), "why": WHY} | of
            assert opened.post("/models/tiny/watch/settle", **given)[0] == 303
        page = opened.get("/models/tiny/watch")
        assert "Settle alarm" not in page
        assert "No monitor sees a change" in page
    assert {one["alarm"] for one in entries(home, "watch-settled")} == numbers
    assert all("20" not in json.dumps(one) for one in entries(home, "watch-settled"))


def test_the_commands_say_the_same(home: SiteHome) -> None:
    with_outcomes(home)
    done = commands(home, "watch", "tiny")
    said = " ".join(done.stdout.split())
    assert done.returncode == EXIT_OK, done.stderr
    assert "health 0 of 100" in said
    assert "age has a median of 20" in said
    found = json.loads(commands(home, "watch", "tiny", "--json", "-").stdout)
    assert found["health"] == 0
    assert {"values", "outcomes"} <= {one["cause"] for one in found["alarms"]}
    everybody = next(one for one in found["groups"] if one["group"] == "all patients")
    assert everybody["had"] == everybody["known"] / 2
    assert everybody["stated"] == pytest.approx(everybody["known"] / 5)
    number = next(one["number"] for one in found["alarms"] if one["cause"] == "outcomes")
    wrong = commands(home, "settle", "tiny", number, "--as-usual", "--why", WHY)
    assert wrong.returncode == EXIT_USAGE
    assert "compared with the card's risks" in " ".join(wrong.stderr.split())
    assert commands(home, "settle", "tiny", number, "--why", WHY).returncode == EXIT_OK
    left = json.loads(commands(home, "watch", "tiny", "--json", "-").stdout)["alarms"]
    assert number not in [one["number"] for one in left]
    assert "is deleted" in commands(home, "watch", "tiny", "--erase").stdout
    gone = commands(home, "watch", "tiny")
    assert gone.returncode == EXIT_USAGE
    assert "nothing was counted" in gone.stderr


def test_a_plan_is_signed_and_an_older_one_that_is_put_back_has_no_effect(home: SiteHome) -> None:
    decide = ("plan", "tiny", "--by", "Ada", "--why", "the board's plan")
    assert commands(home, *decide, "--columns", "stop").returncode == EXIT_OK
    first = entries(home, "watch-plan")[0]["plan"]
    old = home.directory / "models" / f"{first}.watch.json"
    before = old.read_bytes()
    done = commands(home, *decide, "--columns", "fall-back", "--follow-up", 14)
    assert "columns: fall back" in done.stdout
    plan = plan_decisions.read(home, "tiny")
    assert plan is not None
    assert (plan.follow_up_days, plan.by) == (14, "Ada")
    assert "columns: fall back" in commands(home, "watch", "tiny").stdout
    last = home.directory / "models" / f"{entries(home, 'watch-plan')[1]['plan']}.watch.json"
    last.write_bytes(before)
    with pytest.raises(TrustError, match="is not the plan that was decided"):
        plan_decisions.read(home, "tiny")
    last.unlink()
    with pytest.raises(TrustError, match="is missing"):
        plan_decisions.read(home, "tiny")
    said = commands(home, "watch", "tiny")
    assert said.returncode == EXIT_OK, "monitors can be read without a plan"
    assert "alarms wait for a plan that can be read" in " ".join(said.stdout.split())
    with serving(home) as desk:
        page = open_by_link(desk).get("/models/tiny/watch")
        assert "The plan cannot be read, and alarms wait for it." in page
    nobody = commands(home, "plan", "tiny", "--why", "no name")
    assert nobody.returncode == EXIT_USAGE
    assert "--by NAME" in nobody.stderr


def test_a_version_that_is_in_use_no_more_is_named_with_its_number(home: SiteHome) -> None:
    from flo.clients.prediction import version_decisions

    version_decisions.rollback(home, "tiny:9", "it was wrong")
    assert "nothing was counted of tiny, version 1" in " ".join(
        commands(home, "watch", "tiny").stderr.split()
    )
    assert "tiny, version 9: health 0" in commands(home, "watch", "tiny:9").stdout
    assert commands(home, "settle", "tiny:9", 1, "--why", WHY).returncode == EXIT_OK
    assert {one["name"] for one in entries(home, "watch-settled")} == {"tiny"}
    version_decisions.withdraw(home, "tiny:1", "it was wrong, too")
    last = commands(home, "watch", "tiny")
    assert "nothing was counted of tiny, version 1" in " ".join(last.stderr.split())


def test_before_the_first_answer_there_is_nothing_to_show(tmp_path: Path) -> None:
    home = served_site(tmp_path / "north")
    done = commands(home, "watch", "tiny")
    assert done.returncode == EXIT_USAGE
    assert "flo model serve counts what it answers" in " ".join(done.stderr.split())
    assert not watched_answers.watches(home)


def test_the_pages_say_what_was_found_at_all_hospitals_together(tmp_path: Path) -> None:
    home = served_site(tmp_path / "north")
    a_dull_month(home, WATCHED)
    arrived(home, 2)
    with closing(KeptWatch(home, WATCHED)) as kept:
        kept.take([], 3, time.time())
    with serving(home) as desk:
        opened = open_by_link(desk)
        assert "monitor across hospitals has raised an alarm in period 2" in opened.get("/models")
        page = opened.get("/models/tiny/watch")
        assert "At all hospitals together: more outcomes than the model states" in page
        assert "All hospitals together</h2>" in page
        assert "tolerated</dt>" in page
        assert "count anew what is usual" not in page
        given = {"watch": WATCHED.id, "alarm": "1", "why": WHY}
        opened.post("/models/tiny/watch/settle", **given)
        page = opened.get("/models/tiny/watch")
        assert "No monitor sees a change" in page
        assert "All hospitals together</h2>" in page
    (settled,) = entries(home, "watch-settled")
    assert settled["about"] == "hospitals"
