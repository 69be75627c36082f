"""The desk's page of models: the steward puts a version into use, and takes it out again."""

from __future__ import annotations

from contextlib import closing

import pytest

from flo.clients.home.policy_file import sign
from flo.clients.home.site_home import SiteHome
from flo.clients.prediction import flag_decisions, versions
from flo.clients.prediction.flag_rule import FlagRule
from flo.errors import EXIT_OK
from flo.published.model_card import PublishedModel
from tests.clients.desk.test_desk import open_by_link, serving
from tests.clients.prediction.test_rollback import WHY, Consortium, consortium

__all__ = ["consortium"]
pytestmark = pytest.mark.processes


def flag_at_half(site: SiteHome) -> None:
    """A person decides who is flagged by the version in use."""
    path = versions.current_path(site, "tiny")
    model = PublishedModel.open(path, *site.read_coordinator().fingerprints)
    about = {"name": "tiny", "version": 2, "study": model.study.digest, "card": model.card.digest}
    said = {"by": "Ada", "why": "the ward <b> acts", "time": versions.now()}
    rule = FlagRule.model_validate(about | said | {"threshold": 0.5})
    flag_decisions.decide(site, rule, None)


def ask_for_a_gate(site: SiteHome, *, asks: bool = True) -> None:
    (site.directory / "policy.toml").write_text(f"gate_required = {str(asks).lower()}\n")
    assert sign(site.directory, site.open_identity()) is not None


def test_a_steward_decides_which_version_answers(consortium: Consortium) -> None:
    site, studies = consortium.sites[0], [study.digest for study in consortium.studies]
    with serving(site) as desk:
        opened = open_by_link(desk)
        assert "The coordinator has approved no model yet." in opened.get("/models")
        for wanted in ("tiny:1", "tiny:2"):
            assert consortium.says("approve", wanted, *WHY).returncode == EXIT_OK
        for digest, why in zip(studies, ("first", "second <b>"), strict=True):
            assert opened.post("/models/promote", model=digest, why=why)[0] == 303
        page = opened.get("/models")
        assert "tiny: version 2 is in use" in page
        assert "decided by north: second &lt;b&gt;" in page
        assert "go back to version 1" in page
        assert "Cannot tell:" in opened.get("/models/tiny"), "the card states no noise"
        assert "no person has decided from which risk on" in opened.get("/models/tiny")
        status, page = opened.post("/models/tiny/try", age="61", ward="b")
        assert status == 200
        assert "Only the rank of this risk is known: score" in page
        assert "states no noise" in page
        assert 'value="61"' in page, "so that one value can be changed"
        status, page = opened.post("/models/tiny/try", age="987.65<", ward="b")
        assert (status, "age: must be a number" in page) == (400, True)
        assert opened.post("/models/tiny/try", age="")[0] == 400
        ask_for_a_gate(site)
        status, page = opened.post("/models/tiny/try", age="61", ward="b")
        assert (status, "has not passed" in page, "score" in page) == (400, True, False)
        ask_for_a_gate(site, asks=False)
        with closing(site.open_audit_log()) as log:
            assert "61" not in {str(v) for one in log.entries() for v in one.facts.values()}
        flag_at_half(site)
        page = opened.get("/models/tiny")
        assert "is the agent running?" not in page.lower(), "it asked a moment ago"
        assert "A patient is flagged from a risk of 50.0 % on" in page
        assert "the ward &lt;b&gt; acts" in page
        status, page = opened.post("/models/rollback", model=studies[0], why="no")
        assert (status, "version 1 of tiny is not in use: version 2 is" in page) == (400, True)
        status, page = opened.post("/models/rollback", model=studies[1], why="")
        assert (status, "the decision:" in page) == (400, True)
        assert opened.post("/models/delete", model="tiny", why="no")[0] in (404, 405, 422)
        assert opened.post("/models/rollback", model=studies[1], why="too many alarms")[0] == 303
        page = opened.get("/models")
        assert "tiny: version 1 is in use" in page
        assert "too many alarms" in page
        assert opened.post("/models/withdraw", model=studies[0], why="an audit")[0] == 303
        assert "tiny: no version is in use" in opened.get("/models")
    assert versions.read(site).current("tiny") is None
