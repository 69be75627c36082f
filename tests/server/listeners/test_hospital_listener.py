"""The hospital listener: an exact list of paths, for enrolled hospitals, and nothing else."""

from __future__ import annotations

import base64
import contextlib
import http.client
import ssl
from contextlib import closing
from pathlib import Path

import pytest

from flo.clients.connection.enrolment import enrol
from flo.clients.home.site_home import SiteHome
from flo.documents import canonical
from flo.errors import TrustError
from flo.keys.keystore import LocalKeyStore
from flo.keys.tls import load_certificate
from flo.protocol import whole_messages
from flo.protocol.large_bodies import FETCH_PATH, OFFER_PATH
from flo.protocol.messages import MAX_MESSAGE_BYTES
from flo.server.api.site_api import SITE_CALLS
from flo.server.flower.superlink import FLEET_PATHS, PUBLIC_KEY_HEADER
from flo.server.keys.authority import Authority
from flo.server.listeners.hospital_listener import MAX_SITE_BODY
from flo.server.maintenance.invitations import invite
from flo.storage.files import write_private
from tests.builders import make_site
from tests.commands import flo
from tests.server.real_coordinator import RealCoordinator, ask, key_header

pytestmark = pytest.mark.processes

PARCELS = {FETCH_PATH, OFFER_PATH, whole_messages.PULL_PATH, whole_messages.PUSH_PATH}
STUDIES = "/v1/site/studies"
PULL = "/v1/fleet/pull-messages"
_CUT_OFF = (ssl.SSLError, ConnectionError)

OFF_THE_LIST = [
    ("GET", "/"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
    ("GET", "/redoc"),
    ("GET", "/health"),
    ("POST", "/health"),
    ("POST", "/v1/fleet/register-node"),
    ("POST", "/v1/fleet/unregister-node"),
    ("POST", "/v1/fleet/get-fab"),
    ("POST", "/v1/fleet/get-run"),
    ("POST", "/v1/control/start-run"),
    ("POST", "/v1/control/stop-run"),
    ("POST", "/v1/control/list-nodes"),
    ("POST", "/v1/control/register-node"),
    ("POST", "/v1/control/pull-artifacts"),
    ("POST", "/v1/runtime/acquire-task"),
    ("POST", "/v1/runtime/push-messages"),
    ("POST", "/v1/runtime/pull-object"),
    ("POST", "/v1/runtime/responses"),
    ("GET", "/v1/flo/studies"),
    ("POST", "/v1/flo/studies"),
    ("GET", "/v1/flo/hospitals"),
    ("GET", STUDIES),
    ("PUT", STUDIES),
    ("OPTIONS", STUDIES),
    ("DELETE", "/v1/site/enrol"),
    ("GET", PULL),
    ("HEAD", PULL),
    ("POST", f"{STUDIES}/"),
    ("POST", f"{PULL}/"),
    ("POST", f"/{STUDIES}"),
    ("POST", "/v1//site/studies"),
    ("POST", "/V1/SITE/STUDIES"),
    ("POST", "/v1/site/../site/studies"),
    ("POST", "/v1/site/%2e%2e/control/start-run"),
    ("POST", "/v1/fleet/pull-messages/%2e%2e/get-fab"),
    ("POST", "/v1/site/studies%2f"),
    ("POST", "/v1/site/studies;x"),
    ("POST", "/v1/site"),
    ("POST", "/v1/site/renew/x"),
]


@pytest.fixture
def north(coordinator: RealCoordinator, sites: dict[str, SiteHome]) -> ssl.SSLContext:
    return coordinator.site(sites["north"])


@pytest.mark.parametrize(("method", "path"), OFF_THE_LIST, ids=lambda part: str(part))
def test_what_is_not_on_the_list_does_not_exist(
    coordinator: RealCoordinator, north: ssl.SSLContext, method: str, path: str
) -> None:
    assert coordinator.outside(method, path, north).status == 404


def test_a_client_without_a_certificate_is_refused_at_tls(coordinator: RealCoordinator) -> None:
    with pytest.raises(_CUT_OFF):
        coordinator.outside("POST", STUDIES, coordinator.anonymous())


def test_a_certificate_of_another_authority_is_refused_at_tls(
    coordinator: RealCoordinator, tmp_path: Path
) -> None:
    stranger = coordinator.issued(
        "north", Authority.create(tmp_path, LocalKeyStore(tmp_path / "k"))
    )
    with pytest.raises(_CUT_OFF):
        coordinator.outside("POST", STUDIES, stranger)


def test_the_coordinators_own_certificate_opens_nothing(
    coordinator: RealCoordinator, tmp_path: Path
) -> None:
    home = coordinator.home
    itself = coordinator.shows(home.certificate_path.read_bytes(), home.open_tls_identity().pem())
    with pytest.raises(_CUT_OFF):
        coordinator.outside("POST", STUDIES, itself)


def test_tls_1_2_is_not_spoken(coordinator: RealCoordinator, sites: dict[str, SiteHome]) -> None:
    folder = sites["north"].directory
    old = coordinator.anonymous()
    load_certificate(
        old, (folder / "certificate.pem").read_bytes(), sites["north"].open_identity().pem()
    )
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(_CUT_OFF):
        coordinator.outside("POST", STUDIES, old)


def test_plain_http_gets_no_answer(coordinator: RealCoordinator) -> None:
    with contextlib.closing(
        http.client.HTTPConnection("127.0.0.1", coordinator.port, timeout=10)
    ) as plain:
        plain.request("POST", STUDIES)
        with pytest.raises(_CUT_OFF):
            plain.getresponse()


@pytest.mark.parametrize("name", ["north", "nowhere"])
@pytest.mark.parametrize("path", [STUDIES, "/v1/site/enrol", PULL])
def test_a_certificate_that_was_not_enrolled_is_refused(
    coordinator: RealCoordinator, sites: dict[str, SiteHome], tmp_path: Path, name: str, path: str
) -> None:
    assert coordinator.outside("POST", path, coordinator.issued(name)).status == 403


@pytest.mark.parametrize(
    "path", sorted((FLEET_PATHS | PARCELS | set(SITE_CALLS)) - {"/v1/site/enrol"})
)
def test_an_invitation_opens_enrolment_only(
    coordinator: RealCoordinator, tmp_path: Path, path: str
) -> None:
    guest = coordinator.invited(invite(coordinator.home, "guest"))
    assert coordinator.outside("POST", path, guest, body=b"{}").status == 403


def test_a_used_invitation_is_refused(coordinator: RealCoordinator, tmp_path: Path) -> None:
    invitation = tmp_path / "invitation.json"
    write_private(invitation, invite(coordinator.home, "east"))
    enrol(make_site(tmp_path / "first", "east"), invitation)
    with pytest.raises(TrustError, match="refused enrol"):
        enrol(make_site(tmp_path / "second", "east"), invitation)


def test_an_invitation_enrols_nobody_but_the_hospital_it_names(
    coordinator: RealCoordinator, tmp_path: Path
) -> None:
    guest = coordinator.invited(invite(coordinator.home, "guest"))
    answer = coordinator.outside(
        "POST", "/v1/site/enrol", guest, body=b'{"request": "not a certificate request"}'
    )
    assert answer.status == 403
    assert "malformed" in answer.document["error"]


def test_a_revoked_hospital_is_refused_at_its_next_request(
    coordinator: RealCoordinator, tmp_path: Path
) -> None:
    leaver = coordinator.site(coordinator.enrol(tmp_path, "leaver"))
    with coordinator.connection(coordinator.port, leaver) as connection:
        assert ask(connection, "POST", STUDIES, body=b"{}").status == 200
        done = flo("coordinator", "revoke", "leaver", "--home", coordinator.home.directory)
        assert done.returncode == 0, done.stderr
        assert ask(connection, "POST", STUDIES, body=b"{}").status == 403


@pytest.mark.parametrize("path", sorted(FLEET_PATHS | PARCELS))
def test_a_fleet_call_with_another_nodes_key_is_refused(
    coordinator: RealCoordinator, north: ssl.SSLContext, sites: dict[str, SiteHome], path: str
) -> None:
    headers = {PUBLIC_KEY_HEADER: key_header(sites["south"])}
    assert coordinator.outside("POST", path, north, headers=headers).status == 403


@pytest.mark.parametrize("key", ["", "%%%", "AAAA", base64.b64encode(b"x" * 9000).decode()])
def test_a_fleet_call_with_a_malformed_key_is_refused(
    coordinator: RealCoordinator, north: ssl.SSLContext, key: str
) -> None:
    assert coordinator.outside("POST", PULL, north, headers={PUBLIC_KEY_HEADER: key}).status == 403


def test_a_fleet_call_without_flowers_signature_is_refused_by_flower(
    coordinator: RealCoordinator, north: ssl.SSLContext, sites: dict[str, SiteHome]
) -> None:
    headers = {
        PUBLIC_KEY_HEADER: key_header(sites["north"]),
        "content-type": "application/protobuf",
    }
    answer = coordinator.outside("POST", "/v1/fleet/activate-node", north, headers=headers)
    assert answer.status == 401


def test_a_parcel_is_asked_for_by_its_name_and_is_for_whom_it_was_put(
    coordinator: RealCoordinator, north: ssl.SSLContext, sites: dict[str, SiteHome]
) -> None:
    own = {PUBLIC_KEY_HEADER: key_header(sites["north"])}
    for headers, status in (
        (own, 400),
        ({**own, "x-flo-parcel": "../../etc/passwd"}, 400),
        ({**own, "x-flo-parcel": "0" * 32}, 404),
    ):
        assert coordinator.outside("POST", FETCH_PATH, north, headers=headers).status == status


def test_a_whole_message_is_for_the_agent_that_flower_knows_and_a_reply_is_whole(
    coordinator: RealCoordinator, north: ssl.SSLContext, sites: dict[str, SiteHome]
) -> None:
    with closing(coordinator.home.open_store()) as store:
        node = str(store.nodes()["north"])
    own = {PUBLIC_KEY_HEADER: key_header(sites["north"])}
    for path in (whole_messages.PULL_PATH, whole_messages.PUSH_PATH):
        for other in ({}, {whole_messages.NODE_HEADER: "7"}):
            answer = coordinator.outside("POST", path, north, headers=own | other)
            assert answer.status == 401, "as after a restart: it connects anew"
    own[whole_messages.NODE_HEADER] = node
    for body in (b"", b"x", whole_messages.joined([b"x"] * 4), bytes(1 << 20)):
        answer = coordinator.outside(
            "POST", whole_messages.PUSH_PATH, north, headers=own, body=body
        )
        assert answer.status == 400


def test_an_offer_says_how_large_it_is_and_is_not_wanted_by_a_run_that_is_over(
    coordinator: RealCoordinator, north: ssl.SSLContext, sites: dict[str, SiteHome]
) -> None:
    own = {
        PUBLIC_KEY_HEADER: key_header(sites["north"]),
        "x-flo-parcel": "0" * 32,
        "x-flo-run": "7",
    }
    with coordinator.connection(coordinator.port, north) as connection:
        connection.putrequest("POST", OFFER_PATH)
        for name, value in {**own, "content-length": str(MAX_MESSAGE_BYTES + 1)}.items():
            connection.putheader(name, value)
        connection.endheaders()
        assert connection.getresponse().status == 413
    with coordinator.connection(coordinator.port, north) as first:
        first.putrequest("POST", OFFER_PATH)
        for name, value in {**own, "content-length": str(MAX_MESSAGE_BYTES)}.items():
            first.putheader(name, value)
        first.endheaders()
        assert first.getresponse().status == 409, "before anything of it was sent"
    other = coordinator.outside(
        "POST", OFFER_PATH, north, body=b"", headers={**own, "content-length": "x"}
    )
    assert other.status == 400


@pytest.mark.parametrize(
    ("path", "size"),
    [(STUDIES, MAX_SITE_BODY + 1), ("/v1/fleet/push-messages", (1 << 20) + 1)],
    ids=["site call", "fleet call"],
)
def test_an_oversize_body_is_refused(
    coordinator: RealCoordinator,
    north: ssl.SSLContext,
    sites: dict[str, SiteHome],
    path: str,
    size: int,
) -> None:
    headers = {PUBLIC_KEY_HEADER: key_header(sites["north"])}
    answer = coordinator.outside("POST", path, north, body=bytes(size), headers=headers)
    assert answer.status == 413


@pytest.mark.parametrize(
    ("call", "body"),
    [
        ("heads", b"{"),
        ("heads", b"[" * 100_000),
        ("heads", b'{"head": {"sequence": 0, "hash": "", "signature": "", "public": ""}}'),
        ("heads", b'{"head": {"sequence": 1e400}}'),
        ("heads", b'{"head": null, "head": null}'),
        ("approvals", b'{"document": "{}", "signature": "00"}'),
        ("approvals", b"\xff\xfe"),
        ("reports", b'{"study": "00"}'),
    ],
)
def test_a_malformed_body_is_the_senders_error(
    coordinator: RealCoordinator, north: ssl.SSLContext, call: str, body: bytes
) -> None:
    assert coordinator.outside("POST", f"/v1/site/{call}", north, body=body).status in (400, 403)


def test_a_head_signed_by_another_key_is_refused(
    coordinator: RealCoordinator, north: ssl.SSLContext, sites: dict[str, SiteHome]
) -> None:
    with contextlib.closing(sites["south"].open_ledger()) as ledger:
        body = canonical.encode({"head": ledger.head().model_dump(mode="json")})
    assert coordinator.outside("POST", "/v1/site/heads", north, body=body).status == 403
    answer = coordinator.outside("POST", "/v1/site/heads", north, body=b"{}")
    assert (answer.status, answer.document) == (200, {"head": None})


def test_a_refusal_is_in_the_log(coordinator: RealCoordinator, north: ssl.SSLContext) -> None:
    coordinator.outside("POST", "/v1/fleet/seen-by-the-auditor", north)
    log = (coordinator.home.directory / "log" / "coordinator.jsonl").read_text().splitlines()
    (line,) = [line for line in log if "seen-by-the-auditor" in line]
    assert "not open to hospitals" in line


def test_after_all_that_a_good_site_is_served(
    coordinator: RealCoordinator, sites: dict[str, SiteHome]
) -> None:
    for home in sites.values():
        answer = coordinator.outside("POST", STUDIES, coordinator.site(home), body=b"{}")
        assert (answer.status, answer.document) == (200, [])
