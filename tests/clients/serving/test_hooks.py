"""The hospital's record system asks by CDS Hooks, and a clinician reads a card."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import closing
from datetime import date, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from fhir.resources.R4B.riskassessment import RiskAssessment

from flo.audit.log import AuditLog
from flo.cli.model_serve import _write_draft
from flo.clients.home.site_home import SiteHome
from flo.clients.maintenance.doctor_serving import serving
from flo.clients.prediction.flag_decisions import decide, rule_for
from flo.clients.prediction.one_patient import answer
from flo.clients.serving.answer_log import paths
from flo.clients.serving.settings import read_serve_config
from flo.clients.sources.events import years_between
from flo.errors import EXIT_USAGE, UsageError
from tests.clients.serving.served_site import (
    V9,
    WARD,
    AtWork,
    at_work,
    bearer,
    hook,
    observed,
    served_site,
)
from tests.commands import flo

SECRET = "Jane Doe 98765"
HOOK = "/cds-services/tiny"


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    return served_site(tmp_path / "north")


def during(home: SiteHome, work: Callable[[AtWork], Awaitable[None]]) -> None:
    async def run() -> None:
        async with at_work(home) as at:
            await work(at)

    asyncio.run(run())


def card_of(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    (card,) = response.json()["cards"]
    found: dict[str, Any] = card
    return found


def entries(home: SiteHome) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for path in paths(home.directory):
        with closing(AuditLog(path, home.open_identity())) as log:
            found += [(one.kind, one.facts) for one in log.entries()]
    return found


def test_discovery_tells_what_to_prefetch(home: SiteHome) -> None:
    async def work(at: AtWork) -> None:
        (service,) = (await at.get("/cds-services")).json()["services"]
        assert service == {
            "hook": "patient-view",
            "id": "tiny",
            "title": "tiny, version 9",
            "description": "Risk of death in hospital, by tiny, version 9",
            "prefetch": {
                "patient": "Patient/{{context.patientId}}",
                "ward": "Observation?patient={{context.patientId}}"
                f"&combo-code={WARD}|ward&_sort=-date&_count=50",
            },
        }

    during(home, work)


def test_a_card_says_what_the_desk_says_of_the_same_patient(home: SiteHome) -> None:
    born, model = "1950-02-03", V9.open()
    age = years_between(date(1950, 2, 3), datetime.now().astimezone().date())

    async def work(at: AtWork) -> None:
        card = card_of(await at.ask(HOOK, hook("b", born)))
        expected = answer(model, None, {"age": str(age), "ward": "b"})
        assert card["summary"] == f"Death in hospital: {expected.risk}"
        facts = card["extension"]["flo.answer"]
        assert facts["score"] == pytest.approx(expected.score, abs=1e-12)
        assert (facts["version"], facts["card"]) == (9, model.card.digest)
        assert len(card["summary"]) < 140
        assert card["indicator"] == "info"
        assert "does not replace a clinician" in card["detail"]
        assert None not in card.values()
        assert [] not in card.values()

    during(home, work)


def test_the_risk_is_offered_as_a_valid_resource_in_percent(home: SiteHome) -> None:
    async def work(at: AtWork) -> None:
        card = card_of(await at.ask(HOOK, hook()))
        (suggestion,) = card["suggestions"]
        (action,) = suggestion["actions"]
        assert (action["type"], card["selectionBehavior"]) == ("create", "at-most-one")
        resource: Any = RiskAssessment.model_validate(action["resource"])
        assert resource.subject.reference == "Patient/p1"
        assert resource.encounter.reference == "Encounter/e9"
        (prediction,) = resource.prediction
        risk = card["extension"]["flo.answer"]["risk"]
        assert float(prediction.probabilityDecimal) == pytest.approx(100 * risk, abs=0.005)
        assert prediction.outcome.text == "death in hospital"
        assert suggestion["uuid"] != card["uuid"]

    during(home, work)


def test_a_flagged_patient_has_a_warning(home: SiteHome) -> None:
    model = V9.open()
    decide(home, rule_for(model, 0.2, "Ada", "the ward acts"), None)

    async def work(at: AtWork) -> None:
        card = card_of(await at.ask(HOOK, hook()))
        assert card["indicator"] == "warning"
        assert card["extension"]["flo.answer"]["flagged"] is True

    during(home, work)


@pytest.mark.parametrize(
    ("changed", "column", "rule"),
    [
        ({"ward": observed(SECRET)}, "ward", "must be a code of the study's codebook"),
        ({"ward": observed("b", "p2")}, "ward", "is about another patient"),
        ({"ward": {"resourceType": "OperationOutcome"}}, "ward", "record system reports an error"),
        ({"patient": {"resourceType": "Patient", "id": "p2"}}, "patient", "another patient"),
        (
            {"patient": {"resourceType": "Patient", "id": "p1"}},
            "age",
            "is missing, and the model needs it",
        ),
        ({"ward": SECRET}, "ward", "must be a Bundle"),
    ],
)
def test_what_is_wrong_is_said_by_column_and_no_score_is_made_up(
    home: SiteHome, changed: dict[str, Any], column: str, rule: str
) -> None:
    async def work(at: AtWork) -> None:
        request = hook()
        request["prefetch"] |= changed
        response = await at.ask(HOOK, request)
        card = card_of(response)
        assert card["summary"] == f"No risk of death in hospital: {column} cannot be used"
        assert rule in card["detail"].replace("\\", "")
        assert "score" not in card["extension"]["flo.answer"]
        assert "suggestions" not in card
        assert SECRET not in response.text

    during(home, work)
    assert SECRET not in str(entries(home))


@pytest.mark.parametrize(
    ("changed", "status", "said"),
    [
        ({"hook": "order-sign"}, 400, "answers the hook patient-view only"),
        ({"hookInstance": "1"}, 400, "hookInstance must be a UUID"),
        ({"context": {}}, 400, "context.patientId"),
        ({"context": {"patientId": "p1/../p2"}}, 400, "context.patientId"),
        ({"context": None}, 400, "context.patientId"),
        ({"prefetch": [1]}, 400, "prefetch must be an object"),
        ({"prefetch": None}, 412, "lacks prefetched data"),
        ({"prefetch": {"patient": {}}}, 412, "lacks prefetched data"),
    ],
)
def test_a_request_of_another_form_is_refused(
    home: SiteHome, changed: dict[str, Any], status: int, said: str
) -> None:
    async def work(at: AtWork) -> None:
        response = await at.ask(HOOK, hook(**changed))
        assert response.status_code == status
        assert said in response.json()["error"]
        if status == 412:
            assert "ward" in response.json()["missing"]

    during(home, work)


def test_missing_data_of_a_column_that_allows_it_is_no_fault(home: SiteHome) -> None:
    async def work(at: AtWork) -> None:
        request = hook()
        request["prefetch"]["ward"] = None
        assert "score" in card_of(await at.ask(HOOK, request))["extension"]["flo.answer"]

    during(home, work)


def test_feedback_is_kept_by_card_without_words_of_the_record_system(home: SiteHome) -> None:
    said: list[str] = []

    async def work(at: AtWork) -> None:
        card = card_of(await at.ask(HOOK, hook()))["uuid"]
        said.append(card)
        told = {
            "card": card.upper(),
            "outcome": "overridden",
            "overrideReason": {"reason": {"code": "known"}, "userComment": SECRET},
            "outcomeTimestamp": "2026-11-30T00:00:00Z",
        }
        accepted = {"card": card, "outcome": "accepted", "acceptedSuggestions": [{"id": "x"}]}
        body = {"feedback": [told, accepted]}
        assert (await at.ask(f"{HOOK}/feedback", body)).status_code == 200
        wrong: Any
        for wrong in (
            {},
            {"feedback": []},
            {"feedback": [{"card": SECRET}]},
            {"feedback": [accepted | {"card": "1d36ef83-aaf4-4ea2-99d5-8a711d944b8c"}]},
            {"feedback": [told] * 101},
        ):
            response = await at.ask(f"{HOOK}/feedback", wrong)
            assert response.status_code == 400
            assert SECRET not in response.text

    during(home, work)
    found = [facts for kind, facts in entries(home) if kind == "feedback"]
    cards = [[said[0], "overridden", "known"], [said[0], "accepted", ""]]
    assert found == [{"caller": "ehr", "service": "tiny", "cards": cards}]


def test_every_answer_is_in_the_log_by_its_id_before_it_is_sent(home: SiteHome) -> None:
    sent = list[str]()

    async def work(at: AtWork) -> None:
        for _ in range(3):
            response = await at.ask(HOOK, hook())
            sent.append(card_of(response)["uuid"])
            now = [
                line
                for kind, facts in entries(home)
                if kind == "answers"
                for line in facts["answers"]
            ]
            assert now[-1] == [sent[-1], "ehr", "tiny", 9, "scored"]

    during(home, work)
    kinds = [kind for kind, _ in entries(home)]
    assert kinds[0] == "continues"
    assert kinds[-1] == "ended"
    with closing(home.open_audit_log()) as log:
        anchor = log.last("answers-anchored")
    assert anchor is not None
    assert anchor.facts["number"] == len(kinds)


def test_many_answers_share_a_signature(home: SiteHome) -> None:
    async def work(at: AtWork) -> None:
        answers = await asyncio.gather(*(at.ask(HOOK, hook()) for _ in range(40)))
        assert {one.status_code for one in answers} == {200}

    during(home, work)
    groups = [facts["answers"] for kind, facts in entries(home) if kind == "answers"]
    assert sum(map(len, groups)) == 40
    assert len(groups) < 20


def test_a_disk_that_takes_no_entry_sends_no_answer(
    home: SiteHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **facts: Any) -> None:
        raise OSError(28, "No space left on device")

    async def work(at: AtWork) -> None:
        monkeypatch.setattr(AuditLog, "append", full)
        response = await at.ask(HOOK, hook())
        assert response.status_code == 503
        assert "cannot be entered in the log" in response.json()["error"]
        monkeypatch.undo()
        assert (await at.ask(HOOK, hook())).status_code == 200

    during(home, work)


def test_a_model_without_a_mapping_to_fhir_answers_no_hook(tmp_path: Path) -> None:
    home = served_site(tmp_path / "north", models="")

    async def work(at: AtWork) -> None:
        assert (await at.get("/cds-services")).json() == {"services": []}
        response = await at.ask(HOOK, hook())
        assert response.status_code == 404
        assert "not mapped to FHIR" in response.json()["error"]
        scored = await at.ask("/models/tiny/score", {"record": {"age": 50, "ward": "b"}})
        assert scored.status_code == 200

    during(home, work)


def test_where_no_version_answers_a_card_says_so(home: SiteHome) -> None:
    (home.directory / "models" / "versions.json").unlink()

    async def work(at: AtWork) -> None:
        card = card_of(await at.ask(HOOK, hook()))
        assert card["summary"] == "No model answers: tiny"
        response = await at.ask("/models/tiny/score", {"record": {}})
        assert response.status_code == 503
        assert (await at.clients["public"].get("/health")).status_code == 503

    during(home, work)


def test_bytes_that_are_no_request_are_refused_and_the_server_goes_on(home: SiteHome) -> None:
    deep = b'{"prefetch":' + b'{"a":' * 5000 + b"1" + b"}" * 5001
    bodies = [b"", b"\xff", b"[]", b"null", b'{"a": NaN}', deep, b"[" * 100_000, b'"\\ud800"']
    bodies.append(
        json.dumps(hook(prefetch={"patient": {}, "ward": {}, "more": "x" * 1000})).encode()
    )

    async def work(at: AtWork) -> None:
        for body in bodies:
            response = await at.ask(HOOK, body)
            assert response.status_code in (200, 400), body[:20]
            assert "score" not in response.text.replace("No score", "")
        huge = b'{"hook": "' + b"x" * (4 << 20) + b'"}'
        assert (await at.ask(HOOK, huge)).status_code == 413
        assert (await at.ask(HOOK, hook())).status_code == 200

    during(home, work)


def test_other_paths_are_not_there(home: SiteHome) -> None:
    async def work(at: AtWork) -> None:
        for path in ("/", "/cds-services/other", "/models/tiny", "/models/tiny/score/x", "/docs"):
            assert (await at.ask(path, hook())).status_code == 404
        for path in ("/metrics", "/status"):
            assert (await at.get(path)).status_code == 404
        metrics = at.clients["metrics"]
        assert "flo_serve_models 1" in (await metrics.get("/metrics")).text
        for path in ("/status", "/cds-services"):
            assert (await metrics.get(path)).status_code == 404
        assert (await metrics.post("/models/tiny/score", json={})).status_code == 404
        status = (await at.clients["local"].get("/status")).json()
        assert status["models"][0]["title"] == "tiny, version 9"
        local = await at.clients["local"].post(
            "/models/tiny/score", json={"record": {"age": 50, "ward": "b"}, "explain": True}
        )
        assert local.json()["no_reasons"]

    during(home, work)


def test_only_the_address_that_is_asked_counts(home: SiteHome) -> None:
    async def work(at: AtWork) -> None:
        url = f"{at.config.url}{HOOK}"
        client = at.clients["public"]
        for path in (f"{HOOK}/", f"/{HOOK}", "/cds-services/tiny/feedback", "/cds-services/TINY"):
            response = await client.post(path, json=hook(), headers=bearer(url))
            assert response.status_code == 401
        assert (await client.post(HOOK, json=hook(), headers=bearer(url))).status_code == 200

    during(home, work)


# -- the desk, doctor and commands -----------------------------------------------------------------


def test_the_example_of_a_made_up_patient_is_scored(home: SiteHome) -> None:
    async def work(at: AtWork) -> None:
        status = (await at.clients["local"].get("/status")).json()
        (model,) = status["models"]
        card = card_of(await at.clients["local"].post(HOOK, json=model["try"]))
        assert "score" in card["extension"]["flo.answer"]

    during(home, work)


def test_an_answer_is_found_by_the_id_on_its_card(home: SiteHome) -> None:
    said: list[str] = []

    async def work(at: AtWork) -> None:
        said.append(card_of(await at.ask(HOOK, hook()))["uuid"])
        await at.ask(HOOK, hook(), iss="https://other.example")

    during(home, work)
    done = flo("model", "answers", said[0], "--home", home.directory)
    assert done.returncode == 0, done.stderr
    assert "version 9 of tiny answered ehr: scored" in done.stdout
    shown = flo("model", "answers", "--home", home.directory, "--json", "-")
    counted = json.loads(shown.stdout)
    assert [(one["version"], one["answers"]) for one in counted["counts"]] == [(9, 1)]
    assert counted["refused"] == {"the token's issuer is not on the allow-list": 1}
    unknown = flo("model", "answers", "nobody", "--home", home.directory)
    assert unknown.returncode == EXIT_USAGE


def test_a_draft_of_the_configuration_is_complete_but_for_the_callers(tmp_path: Path) -> None:
    home = served_site(tmp_path / "n")
    (home.directory / "serve.toml").unlink()
    _write_draft(home.directory)
    config = read_serve_config(home.directory)
    assert list(config.models) == ["tiny"]
    with pytest.raises(UsageError, match="exists already"):
        _write_draft(home.directory)


def test_doctor_says_what_is_wrong_with_a_server(home: SiteHome) -> None:
    found = {one.subject: one for one in serving(home)}
    assert found["serving"].state == "ok"
    assert found["server"].state == "warning"
    (home.directory / "serve.pem").write_text("x")
    (home.directory / "ehr.jwks.json").write_text("{}")
    found = {one.subject: one for one in serving(home)}
    assert (found["serving"].state, found["server certificate"].state) == ("broken", "broken")
    (home.directory / "serve.toml").unlink()
    assert list(serving(home)) == []
