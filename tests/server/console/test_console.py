"""The console at its door: who gets in, what a foreign page can do, what a page can be made to say.

What it looks like to people is in tests/pages; who may do what in test_roles.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import closing
from http.cookies import SimpleCookie
from pathlib import Path
from urllib.parse import urlencode

import pytest
import tomli_w

from flo.documents import canonical
from flo.pages.responses import STATIC
from flo.server.console.sign_in import COOKIE
from flo.server.http.tokens import Role, issue
from tests.builders import HOSPITALS, small_study, study_document
from tests.server.real_coordinator import RealCoordinator, ask, serving

pytestmark = pytest.mark.processes

SIGN_IN = "/console/sign-in"
NOWHERE = [
    "//evil.example",
    "https://evil.example/",
    "/v1/flo/audit",
    "/console/../v1",
    "/console/%2f%2fevil",
]


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCoordinator]:
    with serving(tmp_path_factory.mktemp("console") / "home") as real:
        yield real


@pytest.fixture
def operator(coordinator: RealCoordinator) -> Browser:
    return Browser(coordinator, token(coordinator))


def token(coordinator: RealCoordinator, role: Role = "operator", seconds: int = 600) -> str:
    return issue(coordinator.home.open_identity(), "Olga Operator", role, seconds)[0]


class Browser:
    """What one sends, and no more; ``cookie``: the token that it was given."""

    def __init__(self, coordinator: RealCoordinator, cookie: str | None = None) -> None:
        self._coordinator, self.cookie = coordinator, cookie
        self.origin: str | None = f"https://127.0.0.1:{coordinator.private_port}"

    def get(self, path: str) -> tuple[int, dict[str, str], str]:
        return self.ask("GET", path, {})

    def post(self, path: str, **fields: str) -> tuple[int, dict[str, str], str]:
        origin = {} if self.origin is None else {"origin": self.origin}
        return self.ask("POST", path, origin, urlencode(fields))

    def ask(
        self, method: str, path: str, headers: dict[str, str], body: str = ""
    ) -> tuple[int, dict[str, str], str]:
        shown = {"cookie": f"{COOKIE}={self.cookie}"} if self.cookie else {}
        port, anyone = self._coordinator.private_port, self._coordinator.anonymous()
        with self._coordinator.connection(port, anyone) as connection:
            connection.request(method, path, body=body.encode(), headers=headers | shown)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read().decode()


def entries(coordinator: RealCoordinator, kind: str) -> list[dict[str, object]]:
    text = token(coordinator)
    headers = {"authorization": f"Bearer {text}"}
    with coordinator.connection(coordinator.private_port, coordinator.anonymous()) as connection:
        log = ask(connection, "GET", "/v1/flo/audit", headers=headers).document
    return [entry["facts"] for entry in log["entries"] if entry["kind"] == kind]


# -- signing in ------------------------------------------------------------------------------------


def test_a_token_signs_in_and_the_browser_keeps_it_out_of_reach(
    coordinator: RealCoordinator,
) -> None:
    for seconds in (600, 601, 3600, 36_000):  # of every length that base64 can have
        text, made = issue(
            coordinator.home.open_identity(), "V" * (seconds % 5 + 1), "viewer", seconds
        )
        status, headers, _ = Browser(coordinator).post(SIGN_IN, token=f" {text}\n")
        assert (status, headers["location"]) == (303, "/console")
        cookie = SimpleCookie(headers["set-cookie"])[COOKIE]
        assert headers["set-cookie"].startswith(f"{COOKIE}={text};")
        assert (cookie["path"], cookie["samesite"]) == ("/", "Lax")
        assert cookie["secure"]
        assert cookie["httponly"]
        assert 0 < int(cookie["max-age"]) <= seconds
        assert Browser(coordinator, text).get("/console")[0] == 200
        assert made.id in {entry["id"] for entry in entries(coordinator, "signed-in")}


def test_an_access_file_signs_in_as_it_is(coordinator: RealCoordinator) -> None:
    text = token(coordinator, "auditor")
    file = canonical.encode({"schema_version": 1, "url": "https://x", "ca": "-", "token": text})
    status, headers, _ = Browser(coordinator).post(SIGN_IN, token=file.decode())
    assert status == 303
    assert headers["set-cookie"].startswith(f"{COOKIE}={text};")


@pytest.mark.parametrize("role", ["launch", "aggregator"])
def test_a_jobs_token_signs_nobody_in(coordinator: RealCoordinator, role: Role) -> None:
    text = token(coordinator, role)
    assert Browser(coordinator).post(SIGN_IN, token=text)[0] == 403
    assert Browser(coordinator, text).get("/console")[0] == 403


@pytest.mark.parametrize("shown", ["", "wrong", "{", '{"token":1}', "a" * 4000, "e30=.00"])
def test_anything_else_signs_nobody_in_and_is_on_record(
    coordinator: RealCoordinator, shown: str
) -> None:
    before = len(entries(coordinator, "denied"))
    status, headers, text = Browser(coordinator).post(SIGN_IN, token=shown)
    assert (status, "Not signed in" in text) == (403, True)
    assert "set-cookie" not in headers
    assert len(entries(coordinator, "denied")) == before + 1


@pytest.mark.parametrize("wanted", NOWHERE)
def test_signing_in_leads_to_no_other_place(coordinator: RealCoordinator, wanted: str) -> None:
    query = urlencode({"next": wanted})
    status, headers, _ = Browser(coordinator).post(f"{SIGN_IN}?{query}", token=token(coordinator))
    assert (status, headers["location"]) == (303, "/console")


def test_an_address_that_makes_no_sense_leads_to_the_first_page(
    coordinator: RealCoordinator,
) -> None:
    for query in ("next", "next=%ff", "next=/console/audit&next=/console/hospitals"):
        path = f"{SIGN_IN}?{query}"
        status, headers, _ = Browser(coordinator).post(path, token=token(coordinator))
        assert (status, headers["location"]) == (303, "/console")


def test_whoever_signs_in_comes_to_the_page_that_was_asked_for(
    coordinator: RealCoordinator,
) -> None:
    status, headers, _ = Browser(coordinator).get("/console/hospitals")
    assert (status, headers["location"]) == (303, f"{SIGN_IN}?next=/console/hospitals")
    status, headers, _ = Browser(coordinator).post(headers["location"], token=token(coordinator))
    assert headers["location"] == "/console/hospitals"


def test_an_expired_token_shows_nothing_any_more(coordinator: RealCoordinator) -> None:
    text, _ = issue(coordinator.home.open_identity(), "Late", "operator", 60, now=0)
    assert Browser(coordinator, text).get("/console")[0] == 303
    before = len(entries(coordinator, "denied"))
    status, _, said = Browser(coordinator, text).get("/console/live")
    assert (status, said) == (200, "event: over\ndata: \n\n")
    assert len(entries(coordinator, "denied")) == before  # a forgotten page fills no log
    assert Browser(coordinator, text).post("/console/drafts", document="x")[0] == 401


def test_signing_out_takes_the_cookie_away(operator: Browser) -> None:
    status, headers, _ = operator.post("/console/sign-out")
    assert (status, headers["location"]) == (303, SIGN_IN)
    assert headers["set-cookie"].startswith(f"{COOKIE}=; Max-Age=0;")


def test_the_look_of_the_pages_is_for_everyone_and_nothing_else_is(
    coordinator: RealCoordinator,
) -> None:
    for name in STATIC:
        assert Browser(coordinator).get(f"/console/{name}")[0] == 200
    for name in ("console.html.j2", "door.py", "..%2f..%2fidentity.key", "style.css/", "STYLE.CSS"):
        assert Browser(coordinator).get(f"/console/{name}")[0] == 303


# -- other pages -----------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", [None, "null", "https://evil.example", "http://127.0.0.1"])
def test_a_form_on_another_page_changes_nothing(operator: Browser, origin: str | None) -> None:
    operator.origin = origin
    document = tomli_w.dumps(study_document(name="foreign"))
    for path in (SIGN_IN, "/console/drafts", "/console/sign-out"):
        assert operator.post(path, document=document, token=str(operator.cookie))[0] == 403
    assert "foreign" not in operator.get("/console")[2]
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
        headers = {} if origin is None else {"origin": origin}
        assert operator.ask(method, "/console/drafts", headers)[0] == 403


def test_no_page_may_load_run_or_frame_anything_of_others(operator: Browser) -> None:
    for path in (
        "/console",
        "/console/hospitals",
        "/console/audit",
        "/console/drafts/new",
        SIGN_IN,
    ):
        _, headers, text = operator.get(path)
        policy = headers["content-security-policy"]
        assert {"default-src 'none'", "frame-ancestors 'none'", "form-action 'self'"} <= set(
            policy.split("; ")
        )
        assert "unsafe" not in policy
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        addresses = re.findall(r"(?:src|href|action)=\"([^\"]+)\"", text)
        assert addresses
        assert all(address.startswith(("/console", "#")) for address in addresses), addresses


# -- drafts ----------------------------------------------------------------------------------------


def draft(operator: Browser, **changes: object) -> tuple[str, str]:
    """A saved draft's path, and its page."""
    status, headers, text = operator.post(
        "/console/drafts", document=tomli_w.dumps(study_document(**changes))
    )
    assert status == 303, text
    return headers["location"], operator.get(headers["location"])[2]


def test_what_somebody_wrote_is_shown_and_never_obeyed(operator: Browser) -> None:
    nasty = '<script>alert(1)</script>"><img src=x onerror=alert(1)>{{ 7 * 7 }}'
    path, page = draft(operator, purpose=nasty, name=f"nasty-{secrets.token_hex(3)}")
    for text in (page, operator.get("/console")[2], operator.get(f"{path}/edit")[2]):
        assert "<script>alert" not in text
        assert "<img" not in text
        assert ">49<" not in text


def test_a_draft_that_is_no_study_is_not_kept_and_what_was_typed_is_not_lost(
    operator: Browser,
) -> None:
    for document, why in (("x = [", "not valid TOML"), ("name = 'mine'", "Field required")):
        status, _, text = operator.post("/console/drafts", document=document)
        assert (status, why in text) == (400, True)
        assert document.replace("'", "&#39;") in text


def test_a_draft_of_hospitals_that_are_not_enrolled_cannot_be_signed(operator: Browser) -> None:
    path, page = draft(operator, name="too-early")
    assert "It cannot be signed yet" in page
    assert "flo coordinator invite north" in page
    assert "<dt>digest</dt><dd>known after launch" in page
    status, _, text = operator.post(
        f"{path}/sign", place="here", digest=small_study(name="too-early").digest
    )
    assert (status, "not enrolled" in text) == (400, True)
    assert operator.get(path)[0] == 200  # it is still there


def test_what_nobody_has_written_yet_is_never_signed(
    coordinator: RealCoordinator, operator: Browser, tmp_path: Path
) -> None:
    for name in ("north", "south", "west"):
        coordinator.enrol(tmp_path / name, name)
    path, page = draft(operator, name="unwritten", purpose="Write here, in plain language, why.")
    status, _, text = operator.post(f"{path}/sign", place="here", digest=to_be_signed(page))
    assert (status, "not written yet: purpose" in text) == (400, True)


def test_a_draft_is_changed_and_discarded(operator: Browser) -> None:
    path, _ = draft(operator, name="first")
    changed = tomli_w.dumps(study_document(name="second"))
    assert operator.post(f"{path}/edit", document=changed)[1]["location"] == path
    assert "second, version 1" in operator.get(path)[2]
    assert operator.post(f"{path}/discard")[0] == 303
    status, _, text = operator.get(path)
    assert (status, "no longer exists" in text) == (400, True)


def test_a_form_that_is_too_large_is_refused(operator: Browser) -> None:
    status, _, text = operator.post("/console/drafts", document="#" * (1 << 20))
    assert (status, "bytes" in text) == (400, True)


# -- studies ---------------------------------------------------------------------------------------


@pytest.fixture
def signed(coordinator: RealCoordinator, operator: Browser, tmp_path: Path) -> str:
    """The path of a study on offer."""
    document = study_document(name=f"study-{secrets.token_hex(3)}")
    for hospital in document["hospitals"]:
        coordinator.enrol(tmp_path / hospital["id"], hospital["id"])
    _, headers, _ = operator.post("/console/drafts", document=tomli_w.dumps(document))
    path, page = headers["location"], operator.get(headers["location"])[2]
    status, headers, text = operator.post(f"{path}/sign", place="here", digest=to_be_signed(page))
    assert status == 303, text
    return headers["location"]


def to_be_signed(page: str) -> str:
    return str(re.findall(r'name="digest" value="(\w+)"', page)[0])


def test_signing_a_draft_offers_it_in_the_name_of_the_person(
    coordinator: RealCoordinator, operator: Browser, signed: str
) -> None:
    assert "waiting for 3 approvals" in operator.get(signed)[2]
    assert entries(coordinator, "offered")[-1]["by"] == "Olga Operator"
    assert operator.post("/console/drafts/" + "0" * 16 + "/sign", place="here")[0] == 400


def test_what_is_signed_is_what_was_shown(
    coordinator: RealCoordinator, operator: Browser, signed: str, tmp_path: Path
) -> None:
    """Neither a draft that was changed meanwhile, nor another key of a hospital."""
    path, page = draft(operator, name=f"moving-{secrets.token_hex(3)}")
    seen = to_be_signed(page)
    coordinator.enrol(tmp_path / "again", "north")
    for fields in ({"digest": seen}, {"digest": ""}, {}):
        status, _, text = operator.post(f"{path}/sign", place="here", **fields)
        assert (status, "has changed since it was shown" in text) == (400, True)
    now = to_be_signed(operator.get(path)[2])
    assert now != seen
    assert operator.post(f"{path}/sign", digest=now)[0] == 400  # and where, is not guessed
    assert operator.post(f"{path}/sign", place="here", digest=now)[0] == 303


def test_a_study_is_carried_out_only_where_this_coordinator_can(
    operator: Browser, signed: str
) -> None:
    path, _ = draft(operator, name=f"elsewhere-{secrets.token_hex(3)}")
    status, _, text = operator.post(f"{path}/sign", place="sagemaker")
    assert (status, "cannot carry out runs" in text) == (400, True)
    assert "choose one of: here" in text


def test_stopping_is_asked_for_twice_and_stands_in_the_log(
    coordinator: RealCoordinator, operator: Browser, signed: str
) -> None:
    assert "No round has run." in operator.get(f"{signed}/stop")[2]
    assert "waiting for 3 approvals" in operator.get(signed)[2]
    assert operator.post(f"{signed}/stop")[0] == 303
    assert ">stopped<" in operator.get(signed)[2]
    assert entries(coordinator, "stop-requested")[-1]["by"] == "Olga Operator"
    status, _, text = operator.post(f"{signed}/stop")
    assert (status, "is stopped, not running" in text) == (400, True)


def test_erasing_needs_the_name_typed_and_a_study_that_is_over(
    operator: Browser, signed: str
) -> None:
    name = re.findall(r"<h1>(study-\w+),", operator.get(signed)[2])[0]
    assert "is offered" in operator.post(f"{signed}/shred", name=name)[2]
    operator.post(f"{signed}/stop")
    assert "nothing was erased" in operator.post(f"{signed}/shred", name="other")[2]
    assert "The key of" in operator.post(f"{signed}/shred", name=name)[2]


def test_a_study_that_waits_for_cleaner_electricity_says_until_when_and_then_what_it_used(
    coordinator: RealCoordinator, operator: Browser, signed: str
) -> None:
    digest = signed.rpartition("/")[2]
    facts = {"since": "2030-01-06T12:00:00+00:00", "saves": 0.25}
    with closing(coordinator.home.open_store()) as store:
        for hospital in HOSPITALS:
            store.add_event(digest, "approved", hospital=hospital)
        store.add_event(digest, "postponed", until="2030-01-07T05:00+00:00", **facts)
        text = operator.get(signed)[2]
        assert (
            "waiting for cleaner electricity until Monday 05:00 UTC, expected to save 25%" in text
        )
        assert "electricity, estimated" not in text
        store.add_event(digest, "declined", hospital=HOSPITALS[0], decision="withdraw")
        assert "cleaner electricity" not in operator.get(signed)[2]
        store.add_event(digest, "emitted", kwh=1.2345, grams=1234.5)
    text = operator.get(signed)[2]
    assert "<span>electricity, estimated</span><b>1230 Wh, 1230 g of CO2</b>" in text


def test_a_study_without_a_model_says_so(operator: Browser, signed: str) -> None:
    for part in ("model", "report", "files/card", "files/tensors", "files/report"):
        status, _, text = operator.get(f"{signed}/{part}")
        assert (status, "no published model" in text) == (400, True)


def test_an_audit_log_that_was_edited_is_said_to_be(
    coordinator: RealCoordinator, operator: Browser
) -> None:
    assert "Unbroken up to entry" in operator.get("/console/audit")[2]
    export = operator.get("/console/audit/export")
    assert export[1]["content-disposition"] == 'attachment; filename="coordinator.audit.json"'


def test_no_token_is_in_any_file_of_the_coordinator(
    coordinator: RealCoordinator, operator: Browser
) -> None:
    operator.post(SIGN_IN, token=str(operator.cookie))
    for path in coordinator.home.directory.rglob("*"):
        if path.is_file():
            assert str(operator.cookie)[-64:].encode() not in path.read_bytes(), path
