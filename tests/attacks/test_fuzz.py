"""Mutated messages: never anything but a refusal, never a hang, and nothing changes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flo.protocol.messages import encode_reply
from flo.server.home.coordinator_home import CoordinatorConfig, CoordinatorHome
from tests.attacks import fuzz_documents as documents
from tests.attacks.fuzz import Target, findings, report
from tests.attacks.fuzz_parties import Calls, files, handler
from tests.builders import small_study
from tests.clients.approved_site import approved_site
from tests.privacy.hospitals import World

QUICK, FULL = 1_500, 20_000
NAMES = (
    *(
        "study",
        "canonical",
        "request",
        "reply",
        "frame",
        "whole message",
        "token",
        "signed token",
        "invitation",
    ),
    *("succession", "audit log", "audit log beside the other", "audit export", "receipt"),
    *("audit head", "report", "extract", "evidence", "evidence page", "model card", "tensors"),
    *("handler", "approval file", "file policy.signed.json", "file policy.toml"),
    *(f"/v1/site/{name}" for name in ("enrol", "studies", "approvals", "heads", "reports")),
    *(f"/v1/site/{name}" for name in ("models", "renew", "audit", "keys", "leave", "given")),
    *("/v1/site/software", "/v1/site/roster", "/v1/site/states", "/v1/site/monitor"),
)


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Target]]:
    with _parties(tmp_path_factory.mktemp("fuzz")) as found:
        assert list(found) == list(NAMES)
        yield found


@contextmanager
def _parties(folder: Path) -> Iterator[dict[str, Target]]:
    sites = approved_site(folder / "north")
    site = next(sites)
    reply = encode_reply(site.ask())
    study = small_study()
    home = CoordinatorHome.create(folder / "coordinator", CoordinatorConfig())
    calls = Calls(folder, home)
    found = [
        *documents.studies(),
        *documents.messages(site.request(), reply),
        documents.tokens(home.open_tls_identity()),
        documents.tokens_of_the_coordinator(home.open_tls_identity()),
        documents.invitations(home),
        documents.successions(),
        *documents.audit_logs(documents.Logs.of(folder / "logs")),
        *documents.reports(World.of(folder / "world", [study], 1, ("north", "south"), 0.9)),
        *documents.evidence(site.home.directory, site.home.open_identity()),
        *documents.models(),
        handler(site),
        *files(site),
        *calls.targets(),
    ]
    yield {target.name: target for target in found}
    calls.close()
    next(sites, None)


def _refuses_all(target: Target, count: int, folder: Path) -> None:
    if found := findings(target, count):
        pytest.fail(report(found, folder), pytrace=False)


@pytest.mark.parametrize("name", NAMES)
def test_a_mutated_message_is_refused_and_changes_nothing(
    targets: dict[str, Target], name: str, tmp_path: Path
) -> None:
    _refuses_all(targets[name], -(-QUICK // len(NAMES)), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_thousands_of_mutated_messages_are_refused_and_change_nothing(
    targets: dict[str, Target], name: str, tmp_path: Path
) -> None:
    _refuses_all(targets[name], -(-FULL // len(NAMES)), tmp_path)
