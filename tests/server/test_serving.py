"""While a coordinator serves: its certificate is renewed, its folder is nobody else's."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flo.errors import RefusedError
from flo.keys.identity import Identity
from flo.server.coordinator import Coordinator
from flo.server.http.tokens import issue
from flo.server.store.hospitals import Member
from tests.commands import flo, flo_process
from tests.server.real_coordinator import RealCoordinator, ask, kinds, new_home, served

pytestmark = pytest.mark.processes

REFUSED = 3

LOOKS_OFTEN = """
import flo.server.coordinator
flo.server.coordinator._CERTIFICATE_SECONDS = 0.2
"""


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCoordinator]:
    """It looks at its certificate five times a second, not each hour."""
    home = new_home(tmp_path_factory.mktemp("serving") / "home")
    with served(RealCoordinator(home, LOOKS_OFTEN)) as real:
        yield real


def shown(connection: Any) -> bytes:
    found: bytes = connection.sock.getpeercert(binary_form=True)
    return found


def test_a_renewed_certificate_is_shown_without_a_restart_while_old_connections_go_on(
    serving: RealCoordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, north = serving.home, serving.site(serving.enrol(tmp_path, "north"))
    studies = ("POST", "/v1/site/studies")
    with (
        serving.connection(serving.port, north) as outside,
        serving.connection(serving.private_port, serving.anonymous()) as inside,
    ):
        assert ask(outside, *studies, body=b"{}").status == 200
        assert ask(inside, "GET", "/health").status == 204
        old, ends = shown(outside), home.certificate_path.read_bytes()
        assert shown(inside) == old
        monkeypatch.setattr("flo.server.keys.authority._SERVER_DAYS", 29)
        home.issue_certificate(home.open_tls_identity())
        end, new = time.monotonic() + 20, old
        while new == old and time.monotonic() < end:
            with serving.connection(serving.private_port, serving.anonymous()) as later:
                assert ask(later, "GET", "/health").status == 204
                new = shown(later)
        assert new != old
        with serving.connection(serving.port, north) as later:
            assert ask(later, *studies, body=b"{}").status == 200
            assert shown(later) == new
        assert ask(outside, *studies, body=b"{}").status == 200
        assert ask(inside, "GET", "/health").status == 204
        assert (shown(outside), shown(inside)) == (old, old)
    assert home.certificate_path.read_bytes() != ends
    assert not home.renew_certificate(days=30)  # the one that is shown lives longer again
    while "certificate-renewed" not in kinds(home):
        assert time.monotonic() < end
    assert kinds(home).count("certificate-renewed") == 1


def test_two_coordinators_on_one_home_are_refused(serving: RealCoordinator) -> None:
    done = flo_process("coordinator", "serve", "--home", serving.home.directory)
    assert done.returncode == REFUSED
    assert f"a coordinator already runs on {serving.home.directory}" in done.stderr
    assert serving.private("GET", "/health").status == 204


def test_a_coordinator_starts_while_the_one_before_is_ending(tmp_path: Path) -> None:
    home, before = new_home(tmp_path / "home"), contextlib.ExitStack()
    before.enter_context(home.serving())
    threading.Timer(0.2, before.close).start()
    with home.serving(), pytest.raises(RefusedError, match="already runs"), home.serving():
        pass


def test_a_key_is_not_replaced_while_it_serves(serving: RealCoordinator) -> None:
    before = serving.home.key_path.read_bytes()
    done = flo("coordinator", "replace-key", "--yes", "--home", serving.home.directory)
    assert (done.returncode, "already runs" in done.stderr) == (REFUSED, True)
    assert serving.home.key_path.read_bytes() == before
    assert not (serving.home.directory / "succession.json").exists()
    headers = {
        "authorization": f"Bearer {issue(serving.home.open_identity(), 'Ada', 'viewer', 60)[0]}"
    }
    assert serving.private("GET", "/v1/flo/studies", headers=headers).status == 200


def test_a_key_that_several_make_known_at_once_is_one_node(tmp_path: Path) -> None:
    """A start makes every enrolled key known, while hospitals enrol anew with theirs."""
    home, identity = new_home(tmp_path / "home"), Identity.new()
    member = Member("north", identity.public, identity.fingerprint, "2f", False, None)
    with home.recording() as store:
        store.add_invitation("1f", "north")
        store.enrol("1f", member)

    async def made_known() -> None:
        coordinator = Coordinator(home)
        serving = asyncio.create_task(coordinator.serve())
        while not coordinator._listeners or not all(one.started for one in coordinator._listeners):
            await asyncio.sleep(0.01)
        await asyncio.gather(*(asyncio.to_thread(coordinator._register, member) for _ in range(8)))
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)

    asyncio.run(made_known())
    with home.recording() as store:
        assert list(store.nodes()) == ["north"]
