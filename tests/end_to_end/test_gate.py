"""A candidate model is compared with the current one: in its own study, and in a later one."""

from __future__ import annotations

import contextlib
import subprocess
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from flo.clients.home.site_home import SiteHome
from flo.clients.prediction.trace import trace
from flo.privacy.ledger.rows import LedgerRow
from flo.published.gate_result import read_gate
from flo.published.model_card import PublishedModel
from tests.commands import flo
from tests.end_to_end.agents import agent
from tests.end_to_end.running import SITES, launch, releases, wait_for
from tests.end_to_end.test_survey_then_study import approved, offered
from tests.server.real_coordinator import RealCoordinator, new_home

pytestmark = pytest.mark.slow


def published(coordinator: RealCoordinator, digest: str) -> Path:
    """The card of a study that is waited for."""
    folder = coordinator.home.directory
    summary = wait_for(
        lambda found: any(event["kind"] == "published" for event in found["events"]), folder, digest
    )
    (event,) = [event for event in summary["events"] if event["kind"] == "published"]
    return Path(event["facts"]["card"])


def said(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return " ".join(done.stdout.split())


def is_release(row: LedgerRow) -> bool:
    return bool(row.public["kind"] == "release")


def ask_for_a_gate(home: SiteHome) -> None:
    policy = home.directory / "policy.toml"
    policy.write_text(policy.read_text().replace("# gate_required", "gate_required"))
    assert flo("site", "policy", "--sign", "--home", home.directory).returncode == 0


def test_a_gate_on_the_card_and_a_gate_of_two_published_models(tmp_path: Path) -> None:
    coordinator = RealCoordinator(new_home(tmp_path / "coordinator"))
    with contextlib.ExitStack() as stack:
        stack.callback(coordinator.stop)
        coordinator.wait_until_ready()
        homes = [coordinator.enrol(tmp_path / name, name) for name in SITES]
        for home in homes:
            stack.enter_context(agent(home))
        folder = coordinator.home.directory
        trusted = coordinator.home.open_identity().fingerprint

        first = published(
            coordinator, launch(coordinator, homes, "distributed noise", schema=4, epsilon=0.2)
        )
        one = PublishedModel.open(first, trusted)
        assert one.card.gate is None

        # A study whose model is compared with the one before it.
        gate = {"current": one.card.digest, "subgroups": ["ward"], "attempts": 2}
        digest = launch(coordinator, homes, "whitened", version=2, gate=gate, schema=4, epsilon=0.2)
        second = published(coordinator, digest)
        two = PublishedModel.open(second, trusted)
        assert two.card.gate is not None
        assert two.card.golden is not None
        assert two.card.noise is not None, "how much noise is in it follows from what was released"
        said(flo("model", "check", second, "--home", folder))
        on_card = two.card.gate.comparison(two.study)
        shown = said(flo("model", "show", second, "--home", folder))
        assert f"verdict {on_card.verdict}:" in shown
        assert f"tiny, version 1, card {one.card.digest}" in shown
        assert "ward=missing" in shown
        assert releases(homes[0]) == {"moments": 1, "training": 7, "evaluation": 2, "gate": 1}

        # The same two models in a study that trains nothing, drafted by a command.
        study = tmp_path / "gate.toml"
        wish = ("--epsilon", "0.2", "--prevalence", "0.3", "--attempts", "2", "--out", study)
        done = flo("model", "gate", second, "--against", first, *wish, "--home", folder)
        assert "times what noise explains" in said(done) or one.card.noise is None
        assert "mechanism" in tomllib.loads(study.read_text())
        assert "compared are" in said(flo("study", "check", study))
        later = stack.enter_context(offered(coordinator, "study", "launch", study))
        approved(homes)
        screen, errors = later.communicate(timeout=90)
        assert later.returncode == 0, errors
        assert "flo model verdict tiny-gate:1" in screen
        asked = ("model", "verdict", "tiny-gate", "--out", tmp_path / "out", "--home", folder)
        wait_for(lambda _: not flo(*asked).returncode, folder, digest)  # it is signed soon after
        verdict = said(flo(*asked))
        found = read_gate(next((tmp_path / "out").glob("*.gate.json")))
        later_study = found.check(trusted)
        assert f"verdict {found.sums.comparison(later_study).verdict}:" in verdict
        assert later_study.gate is not None
        assert later_study.gate.cards == (two.card.digest, one.card.digest)
        assert releases(homes[0])["gate"] == 2

        # A prediction leads back to the approval and to each row that paid for its model.
        said(flo("model", "fetch", "tiny:2", "--out", tmp_path, "--home", homes[0].directory))
        fetched = next(tmp_path.glob("tiny-*.card.json"))
        data = ("--data", homes[0].directory.parent / "patients.csv", "--out", tmp_path / "s.csv")
        said(flo("model", "predict", fetched, *data, "--explain", "--home", homes[0].directory))
        traced = trace(homes[0], tmp_path / "s.csv")
        assert traced.approval is not None
        assert traced.record.card == two.card.digest
        purposes = Counter(row.public.get("purpose") for row in traced.rows if is_release(row))
        assert purposes == {"moments": 1, "training": 4, "evaluation": 1, "gate": 1}
        screen = said(flo("model", "trace", tmp_path / "s.csv", "--home", homes[0].directory))
        assert "release, training 4: rows" in screen

        # A hospital whose policy asks for a passed gate gets no other model.
        fetch = ("model", "fetch", "tiny:2", "--out", tmp_path / "models")
        said(flo(*fetch, "--home", homes[0].directory))
        assert len(list((tmp_path / "models").glob("*.gate.json"))) == 1
        ask_for_a_gate(homes[0])
        verdicts = [on_card.verdict, found.sums.comparison(later_study).verdict]
        passed = "pass" in verdicts and "fail" not in verdicts
        for words in (fetch, ("model", "fetch", "tiny:1", "--out", tmp_path / "models")):
            done = flo(*words, "--home", homes[0].directory)
            allowed = passed and "tiny:2" in words
            assert (done.returncode == 0) == allowed
            assert allowed or "gate_required = true: tiny, version" in done.stderr
