"""Models that a coordinator has published, for studies that continue them."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from safetensors.numpy import save

from flo.documents import canonical
from flo.keys.identity import Signer
from flo.privacy.accounting.plan import Plan
from flo.privacy.report.wording import trust
from flo.published.model_card import ModelCard
from flo.server.home.coordinator_home import CoordinatorHome
from flo.study.document import Study
from flo.study.lineage import Life
from flo.study.models import named
from flo.study.parameters import Vector
from tests.flo.published_models import weights_of


def publish(
    home: CoordinatorHome,
    study: Study,
    weights: Vector | None = None,
    *,
    signer: Signer | None = None,
    **changes: Any,
) -> ModelCard:
    """Sign this study, and a card of its model; both files are in the coordinator's folder."""
    identity = signer or home.open_identity()
    tensors = save(named(study, weights_of(study) if weights is None else weights))
    document: dict[str, Any] = {
        "schema_version": 3 if study.schema_version >= 4 else 2,
        "study": study.canonical_bytes.decode(),
        "study_signature": identity.sign("study", study.canonical_bytes),
        "run": "run-1",
        "made": "2026-01-02T03:04:05+00:00",
        "file": canonical.digest(tensors),
        "rounds": study.mechanism.steps,
        "epsilon": Plan.of(study).epsilon,
        "delta": study.mechanism.delta,
        "trust_model": trust(study),
        "evaluation": None,
        "subgroups": {},
        "life": Life(epsilon=0.9, delta=1e-6) if study.schema_version >= 4 else None,
        "report": "ab" * 32,
        "without_extract": [],
        "coordinator": identity.public.hex(),
    }
    card = ModelCard.model_validate(document | changes).signed(identity)
    folder = home.directory / "models"
    folder.mkdir(exist_ok=True)
    stem = f"{study.name}-{study.version}-{study.digest[:8]}"
    (folder / f"{stem}.card.json").write_bytes(card.to_bytes())
    (folder / f"{stem}.safetensors").write_bytes(tensors)
    return card


def finished(home: CoordinatorHome, study: Study, result: dict[str, Any], file: str) -> None:
    """Enter that this study's run is over and what it published."""
    with closing(home.open_store()) as store:
        store.add_study(study, home.open_identity().sign("study", study.canonical_bytes))
        run = f"run-{study.digest[:6]}"
        store.start_run(run, study.digest)
        store.end_run(run, store.take_run(run), "done", result)
        store.set_status(study.digest, "done")
        store.add_event(study.digest, "published", card=file)
