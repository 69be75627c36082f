"""A hospital whose way out is a proxy: HTTPS_PROXY is honoured, and loopback never goes there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from flo.clients.connection.enrolment import connect
from flo.clients.maintenance.doctor_network import issuer_seen
from flo.errors import NetworkError, TrustError, UsageError
from flo.host.proxy import keep_direct, place_of, proxy_for, shown
from flo.server.home.coordinator_home import CoordinatorConfig, CoordinatorHome
from tests.clients.proxies import Proxy, proxy
from tests.end_to_end.agents import agent
from tests.end_to_end.running import SITES, launch, wait_for
from tests.ports import free_ports
from tests.server.real_coordinator import RealCoordinator, served

HOST = "flo.consortium.test"  # no resolver knows it; only the proxy does
NAMES = {HOST: "127.0.0.1"}
FAR = f"https://{HOST}:9443"


@pytest.fixture(autouse=True)
def _no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.mark.parametrize(
    ("url", "variables", "taken"),
    [
        (FAR, {}, None),
        (FAR, {"HTTPS_PROXY": "http://proxy:3128"}, "http://proxy:3128"),
        (FAR, {"https_proxy": "proxy:3128"}, "http://proxy:3128"),
        (FAR, {"HTTP_PROXY": "http://proxy:3128"}, None),
        (FAR, {"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": HOST}, None),
        (FAR, {"HTTPS_PROXY": "http://proxy:3128", "no_proxy": ".consortium.test"}, None),
        ("https://127.0.0.1:9443", {"HTTPS_PROXY": "http://proxy:3128"}, None),
        ("https://[::1]:9443", {"HTTPS_PROXY": "http://proxy:3128"}, None),
        ("https://localhost:9443", {"HTTPS_PROXY": "http://proxy:3128"}, None),
    ],
)
def test_which_proxy_a_connection_takes(
    url: str, variables: dict[str, str], taken: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert proxy_for(url) == taken


def test_a_kind_of_proxy_that_flo_does_not_speak_to_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "socks5://proxy:1080")
    with pytest.raises(UsageError, match="a socks5 proxy"):
        proxy_for(FAR)


@pytest.mark.parametrize("address", ["http://anna:se#cret@proxy:3128", "http://proxy:many"])
def test_an_address_of_no_proxy_is_refused_without_its_password(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", address)
    with pytest.raises(UsageError, match="has no valid host and port") as refused:
        proxy_for(FAR)
    assert "cret" not in str(refused.value)


def test_a_password_of_a_proxy_that_speaks_tls_is_never_sent_in_the_clear() -> None:
    """The doctor looks at no certificate through it: nobody is dialled at all."""
    with proxy(NAMES) as found:
        https = found.url.replace("http://", "https://anna:secret@")
        assert issuer_seen(FAR, https) == ""
        assert found.seen == []


def test_a_proxys_password_is_never_shown() -> None:
    assert shown("http://anna:secret@proxy.hospital.org:3128") == "proxy.hospital.org:3128"
    assert shown("https://proxy.hospital.org") == "proxy.hospital.org:443"
    assert place_of("http://proxy.hospital.org") == ("proxy.hospital.org", 80)


def test_the_parts_of_a_coordinator_dial_each_other_directly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NO_PROXY", "elsewhere")
    monkeypatch.setenv("no_proxy", "elsewhere")
    monkeypatch.setenv("ALL_PROXY", "socks5://proxy:1080")
    keep_direct("10.0.0.7")
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"]
    assert os.environ["NO_PROXY"] == "elsewhere,127.0.0.1,localhost,10.0.0.7"
    assert "ALL_PROXY" not in os.environ


@contextlib.contextmanager
def far_away(folder: Path) -> Iterator[RealCoordinator]:
    """A coordinator whose name only the proxy knows; proxies are for hospitals, not for it."""
    port, private_port = free_ports(2)
    config = CoordinatorConfig(host=HOST, port=port, private_port=private_port)
    with served(RealCoordinator(CoordinatorHome.create(folder, config))) as real:
        yield real


def use(found: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", found.url)


@pytest.mark.processes
def test_enrolment_through_a_proxy_and_what_is_said_when_it_does_not_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with far_away(tmp_path / "coordinator") as real, proxy(NAMES) as plain:
        use(plain, monkeypatch)
        site = real.enrol(tmp_path / "north", "north")
        assert plain.seen == [(f"{HOST}:{real.port}", 200)]
        with proxy({}) as lost:
            use(lost, monkeypatch)
            with connect(site) as api, pytest.raises(NetworkError, match="ProxyError: 502"):
                api.call("keys", {})
        with proxy(NAMES, password=True) as closed:
            use(closed, monkeypatch)
            with connect(site) as api, pytest.raises(NetworkError, match="ProxyError: 407"):
                api.call("keys", {})
            monkeypatch.setenv("HTTPS_PROXY", closed.url.replace("//", "//anna:secret@"))
            with connect(site) as api:
                api.call("keys", {})
        with connect(site) as api, pytest.raises(NetworkError, match="through the proxy") as gone:
            api.call("keys", {})
        assert "secret" not in str(gone.value)
        with proxy(NAMES, inspects=True) as inspector:
            use(inspector, monkeypatch)
            with connect(site) as api, pytest.raises(TrustError, match="another authority"):
                api.call("keys", {})


@pytest.mark.slow
def test_a_study_is_carried_out_by_agents_behind_a_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with far_away(tmp_path / "coordinator") as real, proxy(NAMES) as found:
        use(found, monkeypatch)
        with contextlib.ExitStack() as stack:
            homes = [real.enrol(tmp_path / name, name) for name in SITES]
            for home in homes:
                stack.enter_context(agent(home))
            digest = launch(real, homes, "distributed noise")
            wait_for(lambda now: now["status"] == "done", real.home.directory, digest)
        assert {target for target, _ in found.seen} == {f"{HOST}:{real.port}"}
        assert len(found.seen) > 3 * len(homes)
