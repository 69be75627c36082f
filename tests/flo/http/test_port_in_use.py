"""A coordinator that cannot start says why, and ends in the exit code of its kind."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.commands import flo_process
from tests.ports import free_ports
from tests.server.real_coordinator import new_home

pytestmark = pytest.mark.processes


@pytest.mark.parametrize("which", ["port", "private_port"])
def test_a_taken_port_is_named(tmp_path: Path, which: str) -> None:
    home = new_home(tmp_path / "home")
    port: int = getattr(home.read_config(), which)
    with socket.create_server(("127.0.0.1", port)):
        done = flo_process("coordinator", "serve", "--home", home.directory)
    assert done.returncode == 5
    assert f"port {port}" in done.stderr
    assert "what to do" in done.stderr


def test_a_folder_is_made_a_coordinator_once(tmp_path: Path) -> None:
    port, private_port = free_ports(2)
    wish = ("coordinator", "init", "--home", tmp_path / "home", "--port", str(port),
            "--private-port", str(private_port))  # fmt: skip
    assert flo_process(*wish).returncode == 0
    before = (tmp_path / "home" / "identity.key").read_bytes()
    again = flo_process(*wish)
    assert again.returncode == 2
    assert "is already a coordinator's folder" in again.stderr
    assert (tmp_path / "home" / "identity.key").read_bytes() == before


def test_serving_a_folder_that_is_none_is_a_usage_error(tmp_path: Path) -> None:
    done = flo_process("coordinator", "serve", "--home", tmp_path / "nothing")
    assert done.returncode == 2
    assert "flo coordinator init" in done.stderr
    assert not (tmp_path / "nothing").exists()
