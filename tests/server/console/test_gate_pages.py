"""The console's pages of a gate: the verdict with its figures, on a model and on a later study."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from flo.privacy.releases import model_noise
from flo.published.gate_result import GateResult, GateSums
from flo.server.studies.gated import described
from flo.server.studies.publish import result_path
from flo.study.document import from_document
from flo.study.gate_draft import draft
from flo.study.models import parameter_count
from tests.builders import small_study, study_document
from tests.server.console.test_console import Browser, coordinator, entries, operator, token
from tests.server.continued import finished, publish
from tests.server.real_coordinator import RealCoordinator

__all__ = ["coordinator", "operator"]
pytestmark = pytest.mark.processes

GOOD: dict[str, Any] = {
    "asked": "ab" * 32,
    "hospitals": ["north", "south", "west"],
    "values": [200.0, 50.0, 0.0, 500.0],
}


def test_a_model_and_a_later_gate_say_the_verdict_its_figures_and_the_margin(
    coordinator: RealCoordinator, operator: Browser
) -> None:
    home = coordinator.home
    gated = small_study(
        schema_version=4, name="gated", gate={"epsilon": 0.5, "subgroups": ["ward"]}
    )
    each = [value * scale for scale in (1.0, 0.5, 0.5, 0.5, 0.5) for value in GOOD["values"]]
    quality: dict[str, Any] = {"auc": 0.8, "low": 0.7, "high": 0.9, "level": 0.9}
    sums = GOOD | {"values": each}
    card = publish(home, gated, schema_version=4, gate=sums, evaluation=quality)
    folder = home.directory / "models"
    path = folder / f"gated-1-{gated.digest[:8]}.safetensors"
    finished(home, gated, {"rounds": 3, "epsilon": 1.0, "model": str(path)}, "")
    _, _, page = operator.get(f"/console/studies/{gated.digest}/model")
    for words in ("Release gate", "stating everybody", "ward=missing", "better than asked"):
        assert words in page

    old = small_study(schema_version=4, name="old")
    current = publish(home, old)
    study = from_document(
        draft((card.digest, gated), (current.digest, old), epsilon=0.5, prevalence=0.3)
    )
    study = study.with_compared([described(card.digest, gated), described(current.digest, old)])
    identity = home.open_identity()
    result = GateResult(
        study=study.canonical_bytes.decode(),
        study_signature=identity.sign("study", study.canonical_bytes),
        run="run-2",
        made=datetime.now(UTC).isoformat(),
        report=None,
        without_extract=("north",),
        coordinator=identity.public.hex(),
        sums=GateSums.model_validate(GOOD),
    ).signed(identity)
    file = result_path(home, study, "run-2")
    file.write_bytes(result.to_bytes())
    finished(home, study, {"rounds": 1, "epsilon": 0.5, "gate": GOOD}, str(file))
    _, _, page = operator.get(f"/console/studies/{study.digest}")
    for words in ("Release gate", "old, version 1", "pass: it was shown", "Brier score"):
        assert words in page
    assert "Tables and curves" not in page


def test_a_model_page_shows_what_moves_the_score_where_noise_lets_one_know(
    coordinator: RealCoordinator, operator: Browser
) -> None:
    home, settings = coordinator.home, study_document()["mechanism"]
    settings |= {"algorithm": "whitened", "steps": 4, "clip": 0.2, "learning_rate": 4}
    for name, spread, shown in (("loud", 100.0, False), ("quiet", 1e-4, True)):
        study = small_study(schema_version=4, name=name, mechanism=settings)
        size = parameter_count(study)
        noise = model_noise.packed(spread * np.eye(size)).tolist()
        publish(
            home,
            study,
            schema_version=4,
            noise=noise,
            average=[0.0] * (size - 1),
            average_deviation=0.0,
        )
        path = home.directory / "models" / f"{name}-1-{study.digest[:8]}.safetensors"
        finished(home, study, {"rounds": 4, "epsilon": 0.9, "model": str(path)}, "")
        _, _, page = operator.get(f"/console/studies/{study.digest}/model")
        assert "What moves the score" in page
        assert ("noise hides the direction of every column" in page) == (not shown)
        assert ("age at 100" in page) == shown


def test_an_operator_decides_on_a_model_and_a_viewer_only_reads(
    coordinator: RealCoordinator, operator: Browser
) -> None:
    home = coordinator.home
    study = small_study(schema_version=4, name="decided")
    publish(home, study)
    path = home.directory / "models" / f"decided-1-{study.digest[:8]}.safetensors"
    finished(home, study, {"rounds": 3, "epsilon": 1.0, "model": str(path)}, "")
    place = f"/console/studies/{study.digest}/model"
    viewer = Browser(coordinator, token(coordinator, role="viewer"))
    assert "Make it current" not in operator.get(place)[2]
    for step, state in (("approve", "approved"), ("promote", "current")):
        status, headers, _ = operator.post(f"{place}/{step}", why="validated in 2025")
        assert (status, headers["location"]) == (303, place)
        assert f"State: {state}" in operator.get(place)[2]
    _, _, page = viewer.get(place)
    assert "validated in 2025" in page
    assert "formaction" not in page
    assert viewer.post(f"{place}/withdraw", why="no")[0] == 403
    status, _, page = operator.post(f"{place}/withdraw", why="")
    assert status == 400
    assert "why" in page
    assert operator.post(f"{place}/delete", why="no")[0] in (403, 404)
    assert operator.post(f"{place}/rollback", why="no")[0] == 400
    assert operator.post(f"{place}/promote", why="a second click")[0] == 400
    assert operator.post(f"{place}/withdraw", why="<b>units</b>")[0] == 303
    _, _, page = viewer.get(place)
    assert "Withdrawn: this version must not be used." in page
    assert "&lt;b&gt;units" in page
    assert [one["state"] for one in entries(coordinator, "model-decided")] == [
        *("approved", "current", "withdrawn"),
    ]
