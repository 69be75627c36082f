"""A study that is refused reserves nothing, tells nothing and leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from flo.clients.connection.coordinator_api import CoordinatorApi
from flo.clients.connection.offers import Offered, offered_studies
from flo.clients.home.coordinator_info import CoordinatorInfo
from flo.errors import (
    BudgetError,
    DataError,
    FloError,
    PolicyError,
    RefusedError,
    TrustError,
    UsageError,
)
from flo.keys.claims import LedgerHead, row_statement
from flo.keys.identity import Identity
from flo.study.document import Study, from_document
from tests.builders import (
    SilentApi,
    csv_text,
    data_file,
    make_site,
    pretend_enrolled,
    small_study,
    study_document,
)
from tests.clients.approving_site import COORDINATOR, Site, enrolled_site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return enrolled_site(tmp_path)


def resigned(study: Study) -> Offered:
    """The study exactly as it is, under the coordinator's signature."""
    return Offered(study, COORDINATOR.sign("study", study.canonical_bytes))


def altered(offer: Offered, **changes: Any) -> Offered:
    """The offered study with other top keys, signed again."""
    return resigned(from_document({**offer.study.model_dump(mode="json"), **changes}))


def test_an_edited_study_is_refused_by_its_signature(site: Site) -> None:
    offer = site.offer()
    data = offer.study.canonical_bytes.decode()
    for study in (data.replace("0.9", "0.8"), data.replace("Test", "Sell")):
        assert study != data
        answers = [{"study": study, "signature": offer.signature, "status": "offered"}]
        with pytest.raises(TrustError, match="signature of this study"):
            offered_studies(_answering(answers), info(COORDINATOR))


def test_a_study_signed_by_another_coordinator_is_refused(site: Site) -> None:
    offer = site.offer()
    text = offer.study.canonical_bytes.decode()
    answers = [{"study": text, "signature": offer.signature, "status": "offered"}]
    assert offered_studies(_answering(answers), info(COORDINATOR)) == [offer]
    with pytest.raises(TrustError):
        offered_studies(_answering(answers), info(Identity.new()))


@pytest.mark.parametrize(
    "answer",
    [
        [{}],
        [1],
        [{"study": "{}"}],
        [{"study": "{}", "signature": "ab", "status": "offered"}],
        1,
        None,
    ],
)
def test_an_answer_without_shape_is_refused(answer: Any) -> None:
    with pytest.raises(FloError):
        offered_studies(_answering(answer), info(COORDINATOR))


def info(coordinator: Identity) -> CoordinatorInfo:
    return CoordinatorInfo(url="https://127.0.0.1:1", public=coordinator.public.hex())


def _answering(answer: Any) -> CoordinatorApi:
    class Answering:
        def call(self, name: str, body: Any) -> Any:
            return answer

    return cast(CoordinatorApi, Answering())


def test_a_signature_that_does_not_match_reserves_nothing(site: Site) -> None:
    offer = site.offer()
    forged = replace(offer, signature=Identity.new().sign("study", offer.study.canonical_bytes))
    site.refuses(forged, TrustError, "does not match")


def distributed(offer: Offered) -> Offered:
    mechanism = {**study_document()["mechanism"], "noise": "distributed", "masking": "on"}
    return altered(offer, mechanism=mechanism)


def with_epsilon(offer: Offered, epsilon: float) -> Offered:
    mechanism = {**study_document()["mechanism"], "epsilon": epsilon}
    return altered(offer, mechanism=mechanism)


def alone(offer: Offered) -> Offered:
    document = offer.study.model_dump(mode="json")
    limits = {"deadline_seconds": 10, "minimum_cohort": 1}
    return altered(offer, hospitals=document["hospitals"][:1], limits=limits)


def another_key(offer: Offered) -> Offered:
    document = offer.study.model_dump(mode="json")
    document["hospitals"][0]["fingerprint"] = Identity.new().fingerprint
    return altered(offer, hospitals=document["hospitals"])


def partner_unknown(offer: Offered) -> Offered:
    document = offer.study.model_dump(mode="json")
    document["hospitals"][2]["fingerprint"] = ""
    return altered(offer, hospitals=document["hospitals"])


@pytest.mark.parametrize(
    ("change", "error", "why"),
    [
        pytest.param(another_key, TrustError, "another identity key for north", id="another key"),
        pytest.param(partner_unknown, TrustError, "every partner's fingerprint", id="no key"),
        pytest.param(
            lambda offer: altered(offer, schema_version=4, continues={"models": ["ab" * 32]}),
            TrustError,
            "does not state what the models that it continues have learnt from",
            id="no lineage",
        ),
        pytest.param(
            lambda offer: altered(offer, expires="2020-01-01"),
            RefusedError,
            "expired",
            id="expired",
        ),
        pytest.param(
            lambda offer: with_epsilon(offer, 1.0),
            PolicyError,
            "consent_to_epsilon_of_one_or_more",
            id="epsilon 1",
        ),
        pytest.param(
            lambda offer: altered(offer, evaluation={"epsilon": 1.5}),
            PolicyError,
            "consent_to_epsilon_of_one_or_more",
            id="evaluation epsilon 1.5",
        ),
        pytest.param(
            lambda offer: with_epsilon(offer, 0.95), BudgetError, "largest ε that", id="over budget"
        ),
        pytest.param(
            alone, PolicyError, "minimum_hospitals = 2: the study names 1", id="nobody else"
        ),
        pytest.param(distributed, RefusedError, "distributed noise", id="distributed noise"),
    ],
)
def test_a_study_against_the_rules_leaves_no_trace(
    site: Site, change: Callable[[Offered], Offered], error: type[FloError], why: str
) -> None:
    site.refuses(change(site.offer()), error, why, heads=error is BudgetError)


def test_a_study_without_this_hospital_is_refused(site: Site) -> None:
    hospitals = [{"id": name, "declared_size": 40} for name in ("south", "west")]
    study = small_study(hospitals=hospitals)
    site.refuses(site.offer(study), UsageError, "does not name hospital 'north'")


def test_a_study_above_the_sites_own_epsilon_is_refused(site: Site) -> None:
    site.allow(largest_study_epsilon=0.5)
    site.refuses(site.offer(), PolicyError, "largest_study_epsilon = 0.5: the study takes ε = 0.9")


def test_a_second_full_study_does_not_fit_the_life_budget(site: Site) -> None:
    site.approve(site.offer())
    site.refuses(site.offer(small_study(name="second")), BudgetError, "0.0% remains", heads=True)


def test_a_study_with_a_larger_delta_than_the_ledger_is_refused(tmp_path: Path) -> None:
    home = make_site(tmp_path)
    ledger = home.open_ledger()
    ledger.register_population(
        "large",
        epsilon=0.9,
        declared_size=10_000_000,
        hold_out=0.3,
        private={"id_column": "patient_id", **home.read_key_commitments()},
    )
    ledger.close()
    pretend_enrolled(home, COORDINATOR)
    large = Site(home, SilentApi())
    (home.directory / "../large.csv").write_text(csv_text(prefix="x"))
    add_population(large, "large", declared_size=10_000_000)
    large.refuses(large.offer(), BudgetError, "delta 1e-06 is larger", "large", heads=True)


@pytest.mark.parametrize(
    ("cells", "why"),
    [
        pytest.param("p1,98765.4321,a,0", "must lie within", id="outside the bounds"),
        pytest.param("p1,20,secretcode,0", "codebook", id="outside the codebook"),
        pytest.param("p1,,a,0", "the study allows none here", id="missing"),
    ],
)
def test_data_that_do_not_fit_leave_no_trace(site: Site, cells: str, why: str) -> None:
    data_file(site.home).write_text(f"patient_id,age,ward,ill\n{cells}\n")
    site.refuses(site.offer(), DataError, why, heads=True)


def test_a_data_file_that_is_gone_leaves_no_trace(site: Site) -> None:
    data_file(site.home).unlink()
    site.refuses(site.offer(), DataError, "does not exist", heads=True)


def add_population(site: Site, name: str, declared_size: int = 40) -> None:
    with site.home.config_path.open("a") as file:
        file.write(
            f'\n[[populations]]\nname = "{name}"\nfile = "{site.home.directory}/../{name}.csv"\n'
            'id_column = "patient_id"\nhold_out = 0.3\nepsilon = 0.9\n'
            f"declared_size = {declared_size}\n"
            'statement = "None of them is in another population."\n'
        )


def test_a_patient_of_another_population_is_refused(site: Site) -> None:
    site.approve(site.offer())
    add_population(site, "clinic")
    site.home.register_populations()
    clinic = site.home.directory / "../clinic.csv"
    # spelled in another way, and still the same patient
    clinic.write_text(csv_text(prefix="x") + " NORTH0007 ,20,a,0\n")
    study = small_study(name="second")
    why = "^1 patients of population 'clinic'"
    site.refuses(site.offer(study), DataError, why, "clinic", heads=True)
    clinic.write_text(csv_text(prefix="x"))
    site.approve(site.offer(study), "clinic")
    assert site.kinds() == ["birth", "reserve", "birth", "reserve"]


def test_a_population_that_was_never_registered_is_refused(site: Site) -> None:
    add_population(site, "clinic")
    (site.home.directory / "../clinic.csv").write_text(csv_text(prefix="x"))
    site.refuses(site.offer(), UsageError, "not registered", "clinic", heads=True)


def test_a_refused_population_does_not_claim_the_patients_of_another(site: Site) -> None:
    add_population(site, "clinic")
    (site.home.directory / "../clinic.csv").write_text(csv_text(prefix="north"))
    site.refuses(site.offer(), UsageError, "not registered", "clinic", heads=True)
    site.approve(site.offer())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("hold_out = 0.3", "hold_out = 0.5", id="hold_out"),
        pytest.param("epsilon = 0.9", "epsilon = 0.95", id="epsilon"),
        pytest.param("declared_size = 40", "declared_size = 50", id="declared_size"),
        pytest.param('id_column = "patient_id"', 'id_column = "mrn"', id="id_column"),
    ],
)
def test_what_was_fixed_at_birth_cannot_be_changed_in_site_toml(
    site: Site, old: str, new: str
) -> None:
    data = data_file(site.home)
    site.edit_config(old, new)
    if "mrn" in new:
        data.write_text(data.read_text().replace("patient_id", "mrn"))
    why = f"{old.split()[0]} is .* was fixed as"
    site.refuses(site.offer(), PolicyError, why, heads=True)


@pytest.mark.parametrize("name", ["split.key", "patients.key"])
def test_a_replaced_key_is_refused(site: Site, name: str) -> None:
    (site.home.directory / name).write_bytes(b"k" * 32)
    site.refuses(site.offer(), TrustError, f"{name} is not the key", heads=True)


def test_a_ledger_of_which_others_saw_more_approves_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = site.home.open_identity()
    signature = identity.sign("ledger-row", row_statement(9, "c" * 64))
    seen = LedgerHead(sequence=9, hash="c" * 64, signature=signature, public=identity.public.hex())
    monkeypatch.setattr(site.api, "call", lambda *_: {"head": seen.model_dump(mode="json")})
    site.refuses(site.offer(), TrustError, "rolled back")
    assert list((site.home.directory / "snapshots").iterdir()) == []


def test_a_study_that_does_not_fit_the_budget_freezes_no_patients(site: Site) -> None:
    site.refuses(with_epsilon(site.offer(), 0.95), BudgetError, "largest ε", heads=True)
    assert list((site.home.directory / "snapshots").iterdir()) == []
