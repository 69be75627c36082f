"""The desk at its door, over real sockets: for one browser, and for no other page or person."""

from __future__ import annotations

import http.client
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest

from flo.clients.home.emergency_stop import halted
from flo.clients.home.site_home import SiteHome
from flo.keys.identity import Identity
from tests.builders import data_file, make_site, pretend_enrolled
from tests.forked import Forked

pytestmark = pytest.mark.processes

PATIENT = "north0007"


@dataclass
class Desk:
    """`flo site desk` in a process of its own."""

    home: SiteHome
    process: Forked
    printed: str | None = None

    def link(self) -> str:
        """The one on its terminal that has not been opened yet."""
        assert self.process.stdout is not None
        while self.printed is None:
            line = self.process.stdout.readline().decode()
            assert line, "the desk has ended"
            if found := re.search(r"http://\S+", line):
                self.printed = found.group()
        return self.printed

    def ask(
        self, method: str, url: str, *, body: str = "", **headers: str
    ) -> tuple[int, dict[str, str], str]:
        split = urlsplit(url)
        with closing(http.client.HTTPConnection("127.0.0.1", split.port, timeout=20)) as line:
            path = split.path + (f"?{split.query}" if split.query else "")
            line.request(method, path, body=body.encode(), headers=headers)
            answer = line.getresponse()
            if url == self.printed and answer.status == 303:
                self.printed = None  # it opens once; the desk prints the next
            return answer.status, dict(answer.getheaders()), answer.read().decode()


@dataclass(frozen=True)
class Opened:
    desk: Desk
    url: str
    cookie: str

    def get(self, path: str = "") -> str:
        status, _, text = self.desk.ask("GET", f"{self.url}{path}", cookie=self.cookie)
        assert status == 200, text
        return text

    def post(self, path: str, **fields: str) -> tuple[int, str]:
        origin = self.url.split("/desk-")[0]
        status, _, text = self.desk.ask(
            "POST", f"{self.url}{path}", body=urlencode(fields), cookie=self.cookie, origin=origin
        )
        return status, text


@contextmanager
def started(folder: Path) -> Iterator[Desk]:
    home = make_site(folder / "north")
    pretend_enrolled(home, Identity.new())
    with serving(home) as desk:
        yield desk


@contextmanager
def serving(home: SiteHome) -> Iterator[Desk]:
    """The desk of this site."""
    with Forked("flo.cli", "site", "desk", "--home", str(home.directory)) as process:
        try:
            yield Desk(home, process)
        finally:
            process.terminate()


def open_by_link(desk: Desk) -> Opened:
    link = desk.link()
    status, headers, _ = desk.ask("GET", link)
    assert status == 303
    address = f"{link.split('/open/')[0]}{headers['location']}"
    return Opened(desk, address, headers["set-cookie"].split(";")[0])


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """One for all tests that change nothing at the site."""
    with started(tmp_path_factory.mktemp("desk")) as found:
        yield found


@pytest.fixture
def opened(desk: Desk) -> Opened:
    return open_by_link(desk)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Opened]:
    """A desk of a test's own, to change its site."""
    with started(tmp_path) as found:
        yield open_by_link(found)


def test_it_listens_on_this_machine_only(desk: Desk) -> None:
    port = urlsplit(desk.link()).port
    listening = {
        address
        for table in ("tcp", "tcp6")
        for _, address, _, state, *_ in map(str.split, _sockets(table))
        if state == "0A" and address.endswith(f":{port:04X}")
    }
    assert listening == {f"0100007F:{port:04X}"}  # 127.0.0.1


def _sockets(table: str) -> list[str]:
    path = Path("/proc/net") / table
    return path.read_text().splitlines()[1:] if path.exists() else []


def test_the_link_opens_it_once_and_another_stands_on_the_terminal(desk: Desk) -> None:
    first = desk.link()
    assert desk.ask("GET", first)[0] == 303
    second = desk.link()
    assert desk.ask("GET", first)[0] == 403
    assert first != second
    assert desk.ask("GET", second)[0] == 303


def test_the_cookie_goes_to_no_other_server_on_this_machine(desk: Desk) -> None:
    _, headers, _ = desk.ask("GET", desk.link())
    cookie = headers["set-cookie"].lower()
    assert f"path={headers['location'].lower()}" in cookie
    assert re.search(r"path=/desk-[\w-]{22}", cookie)
    assert {"httponly", "samesite=strict"} <= set(cookie.split("; "))


@pytest.mark.parametrize("cookie", ["", "flo-desk=", "flo-desk=guess", "other=1; flo-desk=x"])
def test_without_the_cookie_nothing_is_shown(opened: Opened, cookie: str) -> None:
    for path in ("", "/budget", "/log", "/live", "/opt-outs"):
        status, _, text = opened.desk.ask("GET", f"{opened.url}{path}", cookie=cookie)
        assert (status, "north" in text) == (403, False)


def test_without_the_path_the_cookie_opens_nothing(opened: Opened) -> None:
    server = opened.url.split("/desk-")[0]
    for path in ("/", "/budget", "/desk-/budget", "/desk-wrong"):
        assert opened.desk.ask("GET", f"{server}{path}", cookie=opened.cookie)[0] == 403


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1", "[::1]"])
def test_a_name_that_was_made_to_point_here_is_refused(opened: Opened, host: str) -> None:
    assert opened.desk.ask("GET", opened.url, cookie=opened.cookie, host=host)[0] == 403


@pytest.mark.parametrize("origin", ["", "null", "http://evil.example", "http://127.0.0.1:1"])
def test_a_form_on_another_page_changes_nothing(opened: Opened, origin: str) -> None:
    named = {"origin": origin} if origin else {}
    status, _, _ = opened.desk.ask("POST", f"{opened.url}/stop", cookie=opened.cookie, **named)
    assert (status, halted(opened.desk.home)) == (403, None)


def test_every_page_says_that_nothing_comes_from_elsewhere(opened: Opened) -> None:
    for path in ("", "/budget", "/releases", "/policy", "/opt-outs", "/log"):
        _, headers, text = opened.desk.ask("GET", f"{opened.url}{path}", cookie=opened.cookie)
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["cache-control"] == "no-store"
        elsewhere = {
            found for found in re.findall(r"(?:src|href|action)=\"([^\"]+)\"", text)
            if not found.startswith(("/desk-", "#"))
        }  # fmt: skip
        assert elsewhere == set()


def test_the_red_button_stops_everything_and_lets_it_go_on(own: Opened) -> None:
    status, text = own.post("/stop")
    assert (status, "Everything is stopped" in text) == (200, True)
    assert halted(own.desk.home) is not None
    assert "everything is stopped" in own.get()
    assert own.post("/resume")[0] == 303
    assert halted(own.desk.home) is None


def test_a_coordinator_that_is_away_is_said_to_be_and_the_rest_works(opened: Opened) -> None:
    assert "The coordinator could not be reached" in opened.get()
    assert "100.0 % free" in opened.get("/budget")
    assert "This hospital has made no release yet" in opened.get("/releases")


def test_without_script_only_the_inbox_is_loaded_again_by_itself(opened: Opened) -> None:
    """A page with a form would lose what is being typed."""
    assert 'http-equiv="refresh"' in opened.get()
    for path in ("/opt-outs", "/policy", "/budget", "/releases", "/log"):
        assert "http-equiv" not in opened.get(path)


def test_a_patients_id_is_in_no_file_and_on_no_page_afterwards(own: Opened) -> None:
    status, text = own.post("/opt-outs", patient=PATIENT, record="yes")
    assert status == 200, text
    assert "1 on the list" in text
    for page in (text, own.get("/log"), own.get("/opt-outs")):
        assert PATIENT not in page
    folder = own.desk.home.directory
    for path in filter(Path.is_file, folder.rglob("*")):
        assert PATIENT.encode() not in path.read_bytes(), path


def test_a_patient_is_out_though_the_data_file_is_away(own: Opened) -> None:
    data_file(own.desk.home).unlink()
    status, text = own.post("/opt-outs", patient=PATIENT)
    assert (status, "1 on the list" in text) == (200, True)


def test_nobody_keeps_others_out_by_connecting_and_asking_nothing(own: Opened) -> None:
    with ExitStack() as stack:
        port = urlsplit(own.url).port
        for _ in range(300):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        assert own.post("/stop")[0] == 200
    assert halted(own.desk.home) is not None


def test_a_wrong_id_is_asked_about(own: Opened) -> None:
    _, text = own.post("/opt-outs", patient="nobody")
    assert "No data file that can be read here holds this id" in text


def test_an_edited_policy_is_shown_as_not_in_force_and_can_be_signed(own: Opened) -> None:
    home = own.desk.home
    path = home.directory / "policy.toml"
    path.write_text(path.read_text() + "\nmasking_required = true\n")
    assert "Not in force, so nothing is released" in own.get("/policy")
    shown = re.findall(r'name="digest" value="(\w+)"', own.get("/policy"))[0]
    edited = path.read_text()
    path.write_text(edited + "\nconsent_to_epsilon_of_one_or_more = true\n")
    status, text = own.post("/policy", digest=shown)
    assert (status, "policy.toml changed after this page was opened" in text) == (400, True)
    path.write_text(edited)
    status, text = own.post("/policy", digest=shown, key="", passphrase="")
    assert (status, "In force and signed" in text) == (200, True)
    assert home.read_policy().masking_required


@pytest.mark.parametrize(
    ("asked", "of"),
    [("zero", "main"), ("0", "main"), ("nan", "main"), ("<script>", "main"), ("0.3", "nobody")],
)
def test_a_senseless_question_is_answered_with_the_way_out(
    opened: Opened, asked: str, of: str
) -> None:
    query = urlencode({"population": of, "epsilon": asked})
    status, _, text = opened.desk.ask("GET", f"{opened.url}/budget?{query}", cookie=opened.cookie)
    assert (status, "What to do" in text, "<script>" in text) == (400, True, False)


def test_a_form_that_is_none_is_refused(opened: Opened) -> None:
    origin = opened.url.split("/desk-")[0]
    for body in ("a" * 20_000, "patient=1&patient=2", "%ff=1"):
        status, _, text = opened.desk.ask(
            "POST", f"{opened.url}/opt-outs", body=body, cookie=opened.cookie, origin=origin
        )
        assert (status, "That did not work" in text) == (400, True)


def test_ending_it_takes_no_time_though_a_page_is_open(own: Opened) -> None:
    split = urlsplit(own.url)
    with closing(http.client.HTTPConnection("127.0.0.1", split.port, timeout=20)) as line:
        line.request("GET", f"{split.path}/live", headers={"cookie": own.cookie})
        assert line.getresponse().status == 200
        own.desk.process.terminate()
        assert own.desk.process.wait(timeout=10) in (0, -15)
