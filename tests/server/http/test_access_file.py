"""An access file lets one person do what their role may, from anywhere, for hours; and no more."""

from __future__ import annotations

import base64
import json
import socket
import ssl
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

import pytest
import tomli_w

from flo.audit.chain import Entry
from flo.cli.coordinator.operator import Operator
from flo.documents import canonical
from flo.errors import MessageError, NetworkError, TrustError, UsageError
from flo.keys.identity import Identity
from flo.keys.keystore import LocalKeyStore
from flo.keys.tls import load_certificate
from flo.server.http.tokens import LONGEST_SECONDS, PersonRole, Role, issue, read
from flo.server.keys.authority import Authority
from flo.storage.files import write_private
from tests.builders import HOSPITALS, study_document
from tests.commands import flo
from tests.server.real_coordinator import RealCoordinator, serving

OK, USAGE, TRUST = 0, 2, 4


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCoordinator]:
    """This module's own, because an operator launches a study there."""
    folder = tmp_path_factory.mktemp("access")
    with serving(folder / "home") as real:
        for name in HOSPITALS:
            real.enrol(folder / name, name)
        yield real


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(tomli_w.dumps(study_document()))
    return path


def token(coordinator: RealCoordinator, *options: str | Path) -> Any:
    home = coordinator.home.directory
    return flo("coordinator", "token", "Ada", "--home", home, *options)


def access(coordinator: RealCoordinator, path: Path, role: str = "viewer") -> Path:
    done = token(coordinator, "--role", role, "--out", path)
    assert done.returncode == OK, done.stderr
    return path


def studies(path: Path) -> Any:
    with Operator(path) as person:
        return person.call("GET", "studies")


def log_of(coordinator: RealCoordinator) -> list[Entry]:
    with closing(coordinator.home.open_audit_log()) as log:
        return list(log.entries())


def issued(coordinator: RealCoordinator) -> list[dict[str, Any]]:
    return [entry.facts for entry in log_of(coordinator) if entry.kind == "token-issued"]


# -- what it opens ---------------------------------------------------------------------------------


@pytest.mark.processes
def test_an_access_file_works_as_home_from_another_directory(
    coordinator: RealCoordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("viewer.access.json").write_text("of an earlier token")
    assert token(coordinator).returncode == OK
    assert stat.S_IMODE(Path("viewer.access.json").stat().st_mode) == 0o600
    elsewhere = tmp_path / "another" / "place"
    elsewhere.mkdir(parents=True)
    Path("viewer.access.json").rename(elsewhere / "mine.json")
    monkeypatch.chdir(elsewhere)
    done = flo("study", "list", "--home", "mine.json")
    assert done.returncode == OK, done.stderr
    assert "approved" in done.stdout


@pytest.mark.processes
def test_a_viewer_sees_but_cannot_submit(
    coordinator: RealCoordinator, tmp_path: Path, study: Path
) -> None:
    operator = access(coordinator, tmp_path / "o.json", "operator")
    viewer = access(coordinator, tmp_path / "v.json", "viewer")
    launch = ("study", "launch", study, "--detach", "--home")
    refused = flo(*launch, viewer)
    assert refused.returncode == TRUST
    assert "the role viewer may not launch a study" in refused.stderr
    assert "ask its operator for a token with another role" in refused.stderr
    assert studies(viewer) == []
    assert flo(*launch, operator).returncode == OK
    assert "offered" in flo("study", "list", "--home", viewer).stdout
    digest = studies(operator)[0]["digest"]
    for method, path in (
        ("POST", f"studies/{digest}/stop"),
        ("GET", f"studies/{digest}/extracts"),
        ("GET", "audit"),
    ):
        with Operator(viewer) as person, pytest.raises(TrustError, match="role viewer may not"):
            person.call(method, path)
    assert studies(viewer) == studies(operator)
    assert flo("study", "stop", "tiny", "--yes", "--home", operator).returncode == OK
    assert [found["status"] for found in studies(viewer)] == ["stopped"]
    deadline = time.monotonic() + 30  # the coordinator copies events into its log now and then
    while not (found := [one for one in log_of(coordinator) if one.kind == "offered"]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    (entry,) = found
    assert entry.facts["by"] == "Ada"


@pytest.mark.processes
def test_an_auditor_takes_the_log_home_and_it_verifies(
    coordinator: RealCoordinator, tmp_path: Path
) -> None:
    auditor, out = access(coordinator, tmp_path / "a.json", "auditor"), tmp_path / "log.json"
    assert flo("audit", "export", "--home", auditor, "--out", out).returncode == OK
    done = flo("audit", "verify", out)
    assert done.returncode == OK, done.stderr
    assert log_of(coordinator)[-1].facts == {"by": "Ada"}


# -- what it does not open -------------------------------------------------------------------------


def rewritten(path: Path, **changes: Any) -> Path:
    write_private(path, canonical.encode({**json.loads(path.read_bytes()), **changes}))
    return path


def promoted(text: str) -> str:
    encoded, _, signature = text.partition(".")
    document = base64.urlsafe_b64decode(encoded).replace(b'"viewer"', b'"operator"')
    return f"{base64.urlsafe_b64encode(document).decode()}.{signature}"


@pytest.mark.processes
def test_an_expired_access_file_names_the_way_out(
    coordinator: RealCoordinator, tmp_path: Path
) -> None:
    began = time.time() - LONGEST_SECONDS - 1
    text, _ = issue(coordinator.home.open_identity(), "Ada", "viewer", LONGEST_SECONDS, now=began)
    path = rewritten(access(coordinator, tmp_path / "v.json"), token=text)
    done = flo("study", "list", "--home", path)
    assert done.returncode == TRUST
    assert "does not accept this token" in done.stderr
    assert "it has expired" in done.stderr
    assert "flo coordinator token" in done.stderr


@pytest.mark.processes
def test_an_edited_access_file_opens_nothing(coordinator: RealCoordinator, tmp_path: Path) -> None:
    path = access(coordinator, tmp_path / "v.json")
    before = path.read_bytes()
    text = json.loads(before)["token"]
    stranger, _ = issue(Identity.new(), "Ada", "operator", 3600)
    for changes, error, words in (
        ({"token": promoted(text)}, TrustError, "does not accept this token"),
        ({"token": stranger}, TrustError, "does not accept this token"),
        ({"token": text[:-2]}, TrustError, "does not accept this token"),
        ({"token": "x" * 2049}, UsageError, "token"),
        ({"url": "http://127.0.0.1:9444"}, UsageError, "url"),
        ({"url": "https://127.0.0.1:9444/elsewhere"}, UsageError, "url"),
        ({"schema_version": 2}, UsageError, "schema_version"),
        ({"role": "operator"}, UsageError, "role"),
        ({"ca": None}, UsageError, "ca"),
    ):
        write_private(path, before)
        with pytest.raises(error, match=words):
            studies(rewritten(path, **changes))
    for document in (b"", before[:-1], b"[]", before.replace(b'"url"', b'"ca"')):
        write_private(path, document)
        with pytest.raises((MessageError, UsageError), match=str(path)):
            studies(path)
    write_private(path, before)
    assert studies(path) is not None


def test_an_access_file_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    done = flo("study", "list", "--home", tmp_path / "none.json")
    assert (done.returncode, "none.json" in done.stderr) == (USAGE, True)


@pytest.mark.processes
def test_a_token_is_not_shown_to_an_impostor(coordinator: RealCoordinator, tmp_path: Path) -> None:
    """Another server in the coordinator's place: TLS fails before the token is sent."""
    (tmp_path / "ca").mkdir()
    keystore, impostor = LocalKeyStore(tmp_path / "k"), Identity.new()
    certificate = Authority.create(tmp_path / "ca", keystore).issue_server(impostor, ["127.0.0.1"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_certificate(context, certificate, impostor.pem())
    last_seen: list[str] = []

    def serve(listening: socket.socket) -> None:
        plain, _ = listening.accept()
        with plain:
            plain.settimeout(10)
            try:
                with context.wrap_socket(plain, server_side=True) as secure:
                    last_seen.append(secure.recv(65_536).decode("latin-1"))
            except OSError as error:
                last_seen.append(type(error).__name__)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,))
        thread.start()
        url = f"https://127.0.0.1:{listening.getsockname()[1]}"
        path = rewritten(access(coordinator, tmp_path / "v.json"), url=url)
        with pytest.raises(NetworkError):
            studies(path)
        thread.join()
    assert len(last_seen) == 1
    assert "Bearer" not in last_seen[0]


# -- issuing ---------------------------------------------------------------------------------------


@pytest.mark.processes
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--hours", "24.001"), "--hours 24.001 is not above 0 and at most 24"),
        (("--hours", "inf"), "--hours inf is not above"),
        (("--hours", "nan"), "--hours nan is not above"),
        (("--hours", "0"), "--hours 0 is not above"),
        (("--hours", "0.0001"), "lifetime is 1 to 86400 seconds, not 0"),
        (("--hours", "-8"), "--hours -8 is not above"),
        (("--role", "admin"), "role 'admin' is not one of operator, viewer, auditor"),
        (("--role", "Operator"), "role 'Operator' is not one of"),
    ],
    ids=" ".join,
)
def test_a_token_out_of_its_limits_is_not_issued(
    coordinator: RealCoordinator, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    before = issued(coordinator)
    done = token(coordinator, *options, "--out", tmp_path / "x.json")
    assert (done.returncode, words in done.stderr) == (USAGE, True), done.stderr
    assert not (tmp_path / "x.json").exists()
    assert issued(coordinator) == before


@pytest.mark.processes
@pytest.mark.parametrize("role", get_args(PersonRole))
def test_issuing_is_on_record_and_the_token_is_not(
    coordinator: RealCoordinator, tmp_path: Path, role: Role
) -> None:
    folder, path = coordinator.home.directory, tmp_path / "x.json"
    done = token(coordinator, "--role", role, "--hours", "24", "--out", path)
    assert done.returncode == OK, done.stderr
    text = json.loads(path.read_bytes())["token"]
    made = read(text, coordinator.home.open_identity().public)
    assert (made.name, made.role, made.expires - made.issued) == ("Ada", role, LONGEST_SECONDS)
    assert log_of(coordinator)[-1].kind == "token-issued"
    assert issued(coordinator)[-1] == {
        "id": made.id,
        "name": "Ada",
        "role": role,
        "expires": made.expires,
    }
    document, signature = text.split(".")
    places = {"screen": (done.stdout + done.stderr).encode()}
    places |= {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert len(places) > 10
    for place, content in places.items():
        assert document[-40:].encode() not in content, place
        assert signature[-40:].encode() not in content, place
