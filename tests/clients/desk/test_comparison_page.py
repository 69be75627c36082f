"""The desk's page of a comparison, and the commands beside it."""

from __future__ import annotations

import json
import math
import re
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from flo.clients.comparison import decisions
from flo.clients.comparison.terms import Comparison
from flo.clients.home.site_home import SiteHome
from flo.clients.records import compared_answers
from flo.clients.records.compared_answers import ComparedAnswer, ComparedAnswers
from flo.errors import EXIT_OK, EXIT_REFUSED, EXIT_USAGE
from tests.builders import make_site, pretend_enrolled
from tests.clients.desk.test_desk import open_by_link, serving
from tests.clients.prediction.test_rollback import Consortium, current_everywhere, versions_of_tiny
from tests.clients.prediction.told import ONE, V1, WHY, api, both_in_use, told_of_both
from tests.commands import flo
from tests.flo.published_models import COORDINATOR
from tests.server.real_coordinator import serving as coordinator_serving

pytestmark = pytest.mark.processes
COUNT = 400


def compared_site(folder: Path) -> tuple[SiteHome, Comparison]:
    """Version 1 beside version 9 at 10 %, with rows whose outcomes version 9 foresaw."""
    home, told = make_site(folder), told_of_both()
    pretend_enrolled(home, COORDINATOR)
    both_in_use(home, told)
    return home, decisions.compare(home, api(told), "tiny:1", 10, WHY, 1)


def answers(count: int = COUNT) -> list[ComparedAnswer]:
    days = 86_400.0 * np.linspace(30, 2, count)
    return [
        ComparedAnswer(
            *(f"{n:036}", f"{n:064x}", "ehr", time.time() - days[n], 1 if n % 10 == 0 else 9),
            {1: 0.6, 9: 0.3},
        )
        for n in range(count)
    ]


def outcomes_csv(path: Path) -> Path:
    lines = [f"{one.id},{int(n % 10 < 3)}" for n, one in enumerate(answers())]
    path.write_text("\n".join(["id,outcome", *lines]))
    return path


def test_the_page_says_what_outcomes_show_and_ends_the_comparison(tmp_path: Path) -> None:
    home, comparison = compared_site(tmp_path / "north")
    with closing(ComparedAnswers(home, comparison.id)) as rows:
        rows.add(answers())
    done = flo("model", "outcomes", outcomes_csv(tmp_path / "o.csv"), "--home", home.directory)
    assert done.returncode == EXIT_OK, done.stderr
    assert "400 outcomes are kept; 0 were known" in done.stdout
    with closing(ComparedAnswers(home, comparison.id)) as rows:
        rows.call_worse([V1.study])  # as a server that runs does
    with serving(home) as desk:
        opened = open_by_link(desk)
        page = opened.get("/models/tiny/comparison")
        assert "The server found it to be worse, and shows it to nobody any more" in page
        assert "Version 1: nobody sees its answers" in page, "it is worse"
        assert "It is worse than version 9 on this hospital" in page
        assert "400 of 400" in page
        assert "400 outcomes" in page
        assert page.count('class="dot"') == 8
        assert opened.post("/models/tiny/comparison/end", model="tiny:7", why="no")[0] == 400
        assert opened.post("/models/tiny/comparison/end", model=V1.study, why="worse")[0] == 303
        page = opened.get("/models/tiny/comparison")
        assert "This comparison is over." in page
        assert "nobody sees its answers" in page
    assert decisions.in_force(home, "tiny") is None


def test_who_compares_for_very_long_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, comparison = compared_site(tmp_path / "north")
    with closing(ComparedAnswers(home, comparison.id)) as rows:
        rows.add(answers())
    compare = ("model", "compare", "tiny", "--home", home.directory)
    assert "limit" not in flo(*compare).stdout
    monkeypatch.setattr(compared_answers, "MOST_ANSWERS", COUNT)
    assert "400 answers are kept, which is the limit" in flo(*compare).stdout


def test_the_commands_say_the_same(tmp_path: Path) -> None:
    home, comparison = compared_site(tmp_path / "north")
    with closing(ComparedAnswers(home, comparison.id)) as rows:
        rows.add(answers())
    compare = ("model", "compare", "tiny", "--home", home.directory)
    said = " ".join(flo(*compare).stdout.split())
    assert "nobody can tell yet whether its risks are nearer the outcomes" in said
    assert "400 of 400 outcomes that are due do not count yet (400 are not reported)" in said
    file = outcomes_csv(tmp_path / "o.csv")
    assert flo("model", "outcomes", file, "--home", home.directory).returncode == EXIT_OK
    assert "400 were known" in flo("model", "outcomes", file, "--home", home.directory).stdout
    found = json.loads(flo(*compare, "--json", "-").stdout)
    (line,) = found["versions"]
    assert (line["verdict"], line["outcomes"], line["shown"]) == ("worse", 400, 40)
    gain, low, high = line["gain"]
    assert low < gain < high
    likelier = math.exp(0.3 * math.log(0.6 / 0.3) + 0.7 * math.log(0.4 / 0.7))
    assert abs(gain - 100 * (likelier - 1)) < 1e-9
    ended = flo("model", "canary", "tiny:1", "--off", "--why", "w", "--home", home.directory)
    assert "is compared no more" in ended.stdout
    assert "it is over" in flo(*compare).stdout
    assert "is deleted" in flo(*compare, "--erase").stdout
    gone = flo(*compare)
    assert gone.returncode == EXIT_USAGE
    assert "no versions of tiny are compared here" in gone.stderr


@pytest.mark.parametrize(
    ("text", "code", "why"),
    [
        ("id,result\na,1\n", EXIT_USAGE, "needs the columns id and outcome"),
        ("id,outcome\na,died\n", EXIT_REFUSED, "outcome: not 0 or 1 in row 1"),
        ("id,outcome\na,1\nA,0\n", EXIT_REFUSED, "the same answer twice, in row 2"),
    ],
)
def test_a_file_of_outcomes_in_another_form_is_refused(
    tmp_path: Path, text: str, code: int, why: str
) -> None:
    home, _ = compared_site(tmp_path / "north")
    file = tmp_path / "o.csv"
    file.write_text(text)
    done = flo("model", "outcomes", file, "--home", home.directory)
    assert done.returncode == code
    assert why in " ".join(done.stderr.split())
    assert "died" not in done.stderr, "no patient's value"


def test_a_hospital_compares_two_published_versions(tmp_path: Path) -> None:
    """From a real coordinator, by commands."""
    with coordinator_serving(tmp_path / "coordinator") as coordinator:
        sites = [coordinator.enrol(tmp_path / name, name) for name in ("north", "south", "west")]
        risks = {"calibration": ONE.card.calibration, "evaluation": ONE.card.evaluation}
        studies, cards = zip(*versions_of_tiny(coordinator, **risks), strict=True)
        compare_by_commands(Consortium(coordinator, sites[:1], list(studies), list(cards)))


def compare_by_commands(consortium: Consortium) -> None:
    current_everywhere(consortium, 1)
    current_everywhere(consortium, 2)
    site = consortium.sites[0]
    home = ("--home", site.directory)
    done = flo("model", "shadow", "tiny:1", "--why", "our plan", *home)
    assert done.returncode == EXIT_OK, done.stderr
    said = " ".join(done.stdout.split())
    assert "version 1 of tiny is in shadow" in said
    assert "version 2 is in use, and answers for 100 %" in said
    done = flo("model", "canary", "tiny:1", "--share", "10", "--why", "our plan", *home)
    assert "version 1 of tiny answers for 10 % of the patients" in " ".join(done.stdout.split())
    for wrong, why in (
        (("canary", "tiny:1"), "--share PERCENT, or --off"),
        (("canary", "tiny:1", "--share", "5", "--off"), "--share PERCENT, or --off"),
        (("shadow", "tiny:2"), "version 2 of tiny is in use"),
        (("shadow", "tiny:7"), "no model that anybody decided on"),
    ):
        done = flo("model", *wrong, "--why", "our plan", *home)
        assert done.returncode == EXIT_USAGE, wrong
        assert why in " ".join(done.stderr.split()), done.stderr
    assert consortium.says("withdraw", "tiny:1", "--why", "wrong units").returncode == EXIT_OK
    done = flo("model", "canary", "tiny:1", "--share", "20", "--why", "our plan", *home)
    assert done.returncode == EXIT_REFUSED
    assert re.search("has not approved version 1 of tiny: it is withdrawn", done.stderr)
