"""A policy that asks for a passed gate: which verdicts count at a hospital, and which do not."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from safetensors.numpy import save

from flo.clients.home.policy import Policy
from flo.clients.home.policy_file import sign, write_toml
from flo.clients.home.site_home import SiteHome
from flo.clients.prediction.gate_rule import refuse_ungated
from flo.documents import canonical
from flo.errors import PolicyError, TrustError
from flo.keys.identity import Identity
from flo.privacy.accounting.plan import Plan
from flo.privacy.report.page import render
from flo.privacy.report.report import build
from flo.privacy.report.wording import trust
from flo.published.gate_result import GateResult, GateSums
from flo.published.model_card import ModelCard, PublishedModel, Quality
from flo.server.studies.gated import described
from flo.study.document import Study, from_document
from flo.study.gate_draft import draft
from flo.study.models import named
from tests.builders import make_site, small_study
from tests.flo.published_models import COORDINATOR, MALLORY, weights_of
from tests.privacy.hospitals import World

PASS, FAIL = [4000.0, 400.0, 0.0, 5000.0], [-4000.0, 400.0, 0.0, 5000.0]
UNSURE = [0.0, 40.0, 0.0, 500.0]


def model_of(study: Study, gate: GateSums | None = None) -> PublishedModel:
    tensors = save(named(study, weights_of(study)))
    card = ModelCard(
        schema_version=4 if study.gate else 3,
        study=study.canonical_bytes.decode(),
        study_signature=COORDINATOR.sign("study", study.canonical_bytes),
        run="run-1",
        made="2026-01-02T03:04:05+00:00",
        file=canonical.digest(tensors),
        rounds=3,
        epsilon=Plan.of(study).epsilon,
        delta=study.mechanism.delta,
        trust_model=trust(study),
        evaluation=Quality(auc=0.8, low=0.7, high=0.9, level=0.9),
        subgroups={},
        gate=gate,
        report=None,
        without_extract=("north",),
        coordinator=COORDINATOR.public.hex(),
    ).signed(COORDINATOR)
    return PublishedModel.of(card, tensors, COORDINATOR.fingerprint)


def sums(home: SiteHome, study: Study, values: list[float], asked: str = "") -> GateSums:
    """These sums, of the request that this hospital answered."""
    with closing(home.open_ledger()) as ledger:
        seen = [
            row.private["model"]
            for row in ledger.rows()
            if row.private
            and row.public.get("purpose") == "gate"
            and row.private["study"] == study.digest
        ]
    return GateSums(
        asked=asked or (seen[0] if seen else "ab" * 32),
        hospitals=("north", "south"),
        values=tuple(values),
    )


def result(study: Study, found: GateSums, signer: Identity = COORDINATOR) -> GateResult:
    return GateResult(
        study=study.canonical_bytes.decode(),
        study_signature=signer.sign("study", study.canonical_bytes),
        run="run-2",
        made="2026-01-02T03:04:05+00:00",
        report=None,
        without_extract=("north",),
        coordinator=signer.public.hex(),
        sums=found,
    ).signed(signer)


@pytest.fixture
def homes(tmp_path: Path) -> list[SiteHome]:
    found = [make_site(tmp_path / name, name) for name in ("north", "south")]
    for home in found:
        write_toml(home.directory / "policy.toml", Policy(gate_required=True))
        sign(home.directory, home.open_identity())
    return found


def gated() -> Study:
    return small_study(schema_version=4, gate={"epsilon": 0.2}).with_epsilon(0.2)


@pytest.mark.parametrize("values", [PASS, FAIL, UNSURE], ids=["pass", "fail", "cannot tell"])
def test_a_model_is_used_only_if_its_own_gate_was_passed(
    homes: list[SiteHome], values: list[float]
) -> None:
    (study,) = World.at(homes, [gated()], 3, COORDINATOR).studies
    model = model_of(study, sums(homes[0], study, values))
    if values is PASS:
        refuse_ungated(homes[0], model, [])
    else:
        with pytest.raises(PolicyError, match="gate_required = true: tiny, version 1, has not"):
            refuse_ungated(homes[0], model, [])


def test_a_verdict_about_other_models_than_it_was_asked_about_does_not_count(
    homes: list[SiteHome],
) -> None:
    (study,) = World.at(homes, [gated()], 3, COORDINATOR).studies
    model = model_of(study, sums(homes[0], study, PASS, asked="cd" * 32))
    with pytest.raises(PolicyError, match="was asked about other models"):
        refuse_ungated(homes[0], model, [])


def test_a_verdict_of_a_study_that_this_hospital_never_approved_does_not_count(
    homes: list[SiteHome],
) -> None:
    World.at(homes, [], 3, COORDINATOR)
    study = gated()
    model = model_of(study, sums(homes[0], study, PASS))
    with pytest.raises(PolicyError, match="this hospital did not approve it"):
        refuse_ungated(homes[0], model, [])


def test_without_the_rule_every_checked_model_is_used(tmp_path: Path) -> None:
    home = make_site(tmp_path / "north")
    World.at([home], [], 3, COORDINATOR)
    refuse_ungated(home, model_of(gated()), [])


class Later:
    """A model without a gate of its own, and a later gate that these hospitals ran."""

    def __init__(self, homes: list[SiteHome]) -> None:
        plain = small_study(schema_version=4).with_epsilon(0.2)
        old = model_of(small_study(schema_version=4, name="old"))
        self.model = model_of(plain)
        one, other = (self.model.card.digest, plain), (old.card.digest, old.study)
        asked = from_document(draft(one, other, epsilon=0.2, prevalence=0.3))
        asked = asked.with_compared([described(*one), described(*other)])
        self.world = World.at(homes, [asked], 3, COORDINATOR)
        (self.study,) = self.world.studies


@pytest.mark.slow
def test_the_report_says_which_patients_a_gate_charges(homes: list[SiteHome]) -> None:
    """Not all of them: that is what a study of statistics does."""
    alone, both = Later(homes).world, World.at(homes, [gated()], 3, COORDINATOR)
    pages = [render(build([one.extract()], {})) for one in (alone, both)]
    assert "only the evaluation half of the life budget is charged" in pages[0]
    assert "computed on the same patients, so the two costs add up" in pages[1]
    assert not any("All patients are counted" in page for page in pages)


def test_a_later_gate_counts_and_cannot_be_withheld(homes: list[SiteHome]) -> None:
    later = Later(homes)
    passed = result(later.study, sums(homes[0], later.study, PASS))
    refuse_ungated(homes[0], later.model, [passed])
    with pytest.raises(PolicyError, match=r"tiny-gate: its result is missing"):
        refuse_ungated(homes[0], later.model, [])
    failed = result(later.study, sums(homes[0], later.study, FAIL))
    with pytest.raises(PolicyError, match=r"tiny-gate: fail"):
        refuse_ungated(homes[0], later.model, [failed])


def test_a_result_about_another_model_or_of_another_signer_is_refused(
    homes: list[SiteHome],
) -> None:
    later = Later(homes)
    found = sums(homes[0], later.study, PASS)
    with pytest.raises(TrustError, match="about another candidate"):
        refuse_ungated(homes[0], model_of(gated()), [result(later.study, found)])
    with pytest.raises(TrustError, match="another coordinator"):
        refuse_ungated(homes[0], later.model, [result(later.study, found, MALLORY)])
