"""The console's pages of a gate: the verdict with its figures, on a model and on a later study."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from flo.privacy.releases import model_noise
from flo.published.gate_result import GateResult, GateSums
from flo.server.home.coordinator_home import CoordinatorHome
from flo.server.studies.gated import described
from flo.server.studies.publish import result_path
from flo.study.document import Study, from_document
from flo.study.gate_draft import draft
from flo.study.models import parameter_count
from tests.builders import small_study, study_document
from tests.server.console.test_console import Browser, coordinator, operator
from tests.server.continued import publish
from tests.server.real_coordinator import RealCoordinator

__all__ = ["coordinator", "operator"]
pytestmark = pytest.mark.processes

GOOD: dict[str, Any] = {
    "asked": "ab" * 32,
    "hospitals": ["north", "south", "west"],
    "values": [200.0, 50.0, 0.0, 500.0],
}


def finished(home: CoordinatorHome, study: Study, result: dict[str, Any], file: str) -> None:
    """Enter that this study's run is over and what it published."""
    with closing(home.open_store()) as store:
        store.add_study(study, home.open_identity().sign("study", study.canonical_bytes))
        run = f"run-{study.digest[:6]}"
        store.start_run(run, study.digest)
        store.end_run(run, store.take_run(run), "done", result)
        store.set_status(study.digest, "done")
        store.add_event(study.digest, "published", card=file)


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
        assert ("What moves the score" in page) == shown
        assert ("age at its maximum" in page) == shown
