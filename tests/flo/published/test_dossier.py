"""The dossier of a model: what is known, and where nobody can tell."""

from __future__ import annotations

import shutil
from pathlib import Path

from flo.errors import EXIT_OK, EXIT_TRUST
from tests.commands import Ended, flo
from tests.flo.published_models import COORDINATOR, MALLORY, made
from tests.paths import ROOT

GATED, BY_SEX = ROOT / "tests" / "kept" / "v13", ROOT / "tests" / "kept" / "v14"
PARTIES = dict(line.split() for line in (BY_SEX / "parties.txt").read_text().splitlines())


def dossier(model: Path, out: Path, coordinator: str, threshold: str = "0.3") -> Ended:
    return flo(
        *("model", "dossier", model, "--threshold", threshold, "--out", out),
        *("--coordinator", coordinator),
    )


def test_it_shows_gates_effects_and_where_nobody_can_tell(tmp_path: Path) -> None:
    coordinator = (GATED / "coordinator.txt").read_text().strip()
    done = dossier(GATED / "new.card.json", tmp_path / "page.html", coordinator)
    assert done.returncode == EXIT_OK, done.stderr
    page = (tmp_path / "page.html").read_text()
    assert (
        page.count("By how much the candidate&#39;s Brier score")
        + page.count("By how much the candidate's Brier score")
        >= 2
    ), "its own gate and the later one"
    assert "What each column adds to the log odds" in page
    assert "its card states no sums of its evaluation" in page
    for word in ("<script", "http://", "https://", "style="):
        assert word not in page


def test_it_shows_groups_where_the_card_states_their_sums(tmp_path: Path) -> None:
    model = BY_SEX / "by-sex.card.json"
    done = dossier(model, tmp_path / "page.html", PARTIES["publisher"], "0.4")
    assert done.returncode == EXIT_OK, done.stderr
    page = (tmp_path / "page.html").read_text()
    assert "too few to say" in page
    assert "82.9 %" in page
    assert "no release gate was asked about it" in page


def test_a_model_of_which_nothing_is_known_says_so(tmp_path: Path) -> None:
    path = made("cnn", evaluation=None, subgroups={}).write(tmp_path)
    done = dossier(path, tmp_path / "page.html", COORDINATOR.fingerprint)
    assert done.returncode == EXIT_OK, done.stderr
    page = (tmp_path / "page.html").read_text()
    assert page.count("Cannot tell:") == 3
    assert "its card states no risks" in page


def test_a_gate_that_another_coordinator_signed_is_in_no_dossier(tmp_path: Path) -> None:
    for file in GATED.iterdir():
        shutil.copy(file, tmp_path)
    coordinator = (GATED / "coordinator.txt").read_text().strip()
    gate = tmp_path / "new-gate.gate.json"
    gate.write_text(gate.read_text().replace(_key(gate), MALLORY.public.hex()))
    done = dossier(tmp_path / "new.card.json", tmp_path / "page.html", coordinator)
    assert done.returncode == EXIT_TRUST
    assert not (tmp_path / "page.html").exists()


def _key(gate: Path) -> str:
    return gate.read_text().split('"coordinator":"')[1].split('"')[0]
