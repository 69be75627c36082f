"""``flo doctor`` on a coordinator's machine."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest

from flo.errors import EXIT_OK, EXIT_REFUSED
from flo.keys.tls import read_certificate
from flo.server.home.coordinator_home import CoordinatorHome
from flo.server.keys.authority import names_in
from flo.server.maintenance.doctor import address, open_files
from tests.clients.maintenance.test_doctor import doctor
from tests.server.real_coordinator import new_home, serving


def edit(home: CoordinatorHome, old: str, new: str) -> None:
    text = home.config_path.read_text()
    assert old in text
    home.config_path.write_text(text.replace(old, new))


@pytest.mark.processes
def test_a_coordinator_that_serves_is_said_to_be_ready(on_disk: Path) -> None:
    with serving(on_disk / "coordinator") as real:
        code, found, shown = doctor(real.home.directory)
    assert code == EXIT_OK, shown
    assert found["ports"].message.startswith("served: ")
    assert found["address"].state == "ok", "a consortium on one machine is no mistake"
    assert "only hospitals on this machine" in found["address"].message
    assert {"launcher", "records", "certificate", "open files", "clock"} <= found.keys()


def test_a_port_that_another_program_holds_is_named(on_disk: Path) -> None:
    home = new_home(on_disk / "coordinator")
    with socket.create_server(("127.0.0.1", home.read_config().private_port)):
        code, found, shown = doctor(home.directory)
    assert (code, found["ports"].state) == (EXIT_REFUSED, "broken"), shown
    assert (
        f"port {home.read_config().private_port} on 127.0.0.1 is in use" in found["ports"].message
    )
    assert "coordinator.toml" in found["ports"].fix


@pytest.mark.slow
def test_a_changed_name_is_named_until_the_coordinator_has_a_certificate_for_it(
    on_disk: Path,
) -> None:
    home = new_home(on_disk / "coordinator")
    edit(home, 'host = "127.0.0.1"\nbind', 'host = "localhost.localdomain"\nbind')
    _, found, shown = doctor(home.directory)
    assert found["certificate"].state == "broken", shown
    assert "does not contain localhost.localdomain" in found["certificate"].message
    assert home.renew_certificate(days=30.0), "as a start does"
    assert "localhost.localdomain" in names_in(read_certificate(home.certificate_path))
    assert not home.renew_certificate(days=30.0)
    _, found, _ = doctor(home.directory)
    assert found["certificate"].state == "ok"


def test_a_certificate_that_is_missing_is_named(on_disk: Path) -> None:
    home = new_home(on_disk / "coordinator")
    home.certificate_path.unlink()
    code, found, shown = doctor(home.directory)
    assert (code, found["certificate"].state) == (EXIT_REFUSED, "broken"), shown
    assert "server.pem is missing" in found["certificate"].message


def test_a_change_of_keys_that_was_cut_off_is_named(on_disk: Path) -> None:
    home = new_home(on_disk / "coordinator")
    shutil.copy(home.key_path, home.next_key_path)
    code, found, _ = doctor(home.directory)
    assert (code, found["records"].state) == (EXIT_REFUSED, "broken")
    assert found["records"].fix == "finish it: flo coordinator replace-key"


@pytest.mark.parametrize(
    ("host", "listens", "state", "mend"),
    [
        ("127.0.0.1", "127.0.0.1", "ok", ""),
        ("no-such-host.test", "0.0.0.0", "broken", "register the name"),
        ("192.0.2.7", "127.0.0.1", "broken", 'bind = "0.0.0.0"'),
        ("192.0.2.7", "0.0.0.0", "ok", ""),
    ],
)
def test_whether_hospitals_could_dial_it(host: str, listens: str, state: str, mend: str) -> None:
    found = address(host, listens)
    assert found.state == state
    assert mend in found.fix


def test_few_open_files_are_few_hospitals() -> None:
    assert open_files(256).state == "warning"
    assert open_files(65_536).state == "ok"
    assert open_files(-1).state == "ok", "no limit"
