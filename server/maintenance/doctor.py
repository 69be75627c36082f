"""Checks of ``flo doctor`` for a coordinator: records, ports, certificate and limits."""

from __future__ import annotations

import ipaddress
import resource
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import httpx

from flo.errors import FloError, TrustError
from flo.host.diagnostics import Finding, clock_alone, kernel_clock_state, key_store, tried
from flo.http.tls_server import bind
from flo.keys.tls import read_certificate
from flo.server.flower.superexec import PROGRAM, SERVERAPP
from flo.server.home.coordinator_home import CoordinatorHome
from flo.server.keys.authority import days_left, names_in
from flo.storage.database import refuse_damaged
from flo.storage.files import is_locked

_WARN_DAYS = 14.0  # a running coordinator renews at 30 days
_FEW_FILES = 1024
_SECONDS = 5.0
_ISSUED_AT_A_START = "start or restart the coordinator: it issues a new certificate"
_WITHIN_A_MINUTE = (
    "the coordinator starts it again within a minute; if not, see superexec.log and restart it"
)


def coordinator(home: CoordinatorHome) -> Iterator[Finding]:
    """Check everything that a round needs at the coordinator."""
    try:
        config = home.read_config()
    except FloError as error:
        mend = error.hint or "edit coordinator.toml"
        yield Finding("configuration", "broken", str(error), mend)
        return
    yield Finding("configuration", "ok", f"hospitals dial {config.host}:{config.port}")
    keys = key_store(lambda: home.open_identity().fingerprint)
    yield keys
    if keys.state == "broken":
        return
    yield tried("records", lambda: _records(home), "restore a backup: flo coordinator restore")
    yield address(config.host, config.bind)
    yield from _ports(home)
    yield certificate(home.certificate_path, [config.host, config.private_host])
    if is_locked(home.directory / "serve.lock"):
        yield launcher(str(home.superexec_secret_path))
    yield open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    yield clock_alone(kernel_clock_state())


def _records(home: CoordinatorHome) -> str:
    home.require_no_pending_rotation()
    for name in ("coordinator.sqlite", "audit.sqlite"):
        refuse_damaged(home.directory / name)
    with closing(home.open_store()) as store, closing(home.open_audit_log()):
        return f"{len(store.members())} hospitals, {len(store.offers())} studies"


def address(host: str, listens: str) -> Finding:
    """Check that remote hospitals can connect to ``host``. ``listens``: the listener's address."""
    broken = partial(Finding, "address", "broken")
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except OSError as error:
        return broken(
            f"hospitals dial {host}, which has no known address ({error.strerror})",
            "register the name in DNS, or set another `host` in coordinator.toml",
        )
    outside = {one for one in found if not ipaddress.ip_address(one).is_loopback}
    if not outside:
        return Finding(
            "address",
            "ok",
            f"only hospitals on this machine can dial {host}; for others set host and bind in "
            "coordinator.toml, restart the coordinator, and send new invitations",
        )
    if ipaddress.ip_address(listens).is_loopback:
        return broken(
            f"hospitals dial {host}, but this coordinator listens on {listens} only",
            'set bind = "0.0.0.0" in coordinator.toml, and restart the coordinator',
        )
    return Finding("address", "ok", f"{host} is {', '.join(sorted(outside))}")


def _ports(home: CoordinatorHome) -> Iterator[Finding]:
    config = home.read_config()
    if not is_locked(home.directory / "serve.lock"):
        listeners = (config.bind, config.port), (config.private_host, config.private_port)
        for host, port in listeners:
            yield tried("ports", partial(_bound, host, port), "set another port")
        yield Finding(
            "serving",
            "warning",
            "no coordinator runs on this folder; after a start it needs some seconds",
            "systemctl start flo-coordinator; or flo coordinator serve",
        )
        return
    context = ssl.create_default_context(cafile=str(home.ca_path))
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        with httpx.Client(verify=context, timeout=_SECONDS, trust_env=False) as client:
            status = str(client.get(f"{home.read_private_url()}/health").status_code)
    except httpx.HTTPError as error:
        status = type(error).__name__
    if status == "204":
        yield Finding("ports", "ok", f"served: {config.port} and {config.private_port}")
        return
    yield Finding(
        "ports",
        "broken",
        f"a coordinator runs on this folder but does not answer at {home.read_private_url()} "
        f"({status})",
        "see log/coordinator.jsonl; if coordinator.toml was edited, restart it",
    )


def _bound(host: str, port: int) -> str:
    bind(host, port, "set another port in coordinator.toml").close()
    return f"{port} on {host} is free"


def certificate(path: Path, names: list[str]) -> Finding:
    """Check that the listeners' certificate is valid and has these host names and addresses.

    If not, the coordinator issues a new one at its next start.
    """
    broken = partial(Finding, "certificate", "broken")
    try:
        found = read_certificate(path)
    except TrustError as error:
        return broken(str(error), _ISSUED_AT_A_START)
    if found.not_valid_before_utc > datetime.now(UTC):
        begins = f"not valid before {found.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        return broken(begins, f"check the clock; then {_ISSUED_AT_A_START}")
    missing = [name for name in names if name not in names_in(found)]
    if missing:
        lacks = f"the listeners' certificate does not contain {', '.join(missing)}"
        return broken(lacks, f"{_ISSUED_AT_A_START} for the names in coordinator.toml")
    left = days_left(found)
    until = f"{found.not_valid_after_utc:%Y-%m-%d}"
    if left < 0:
        return broken(f"expired on {until}", f"check the clock; then {_ISSUED_AT_A_START}")
    if left < _WARN_DAYS:
        return Finding("certificate", "warning", f"{left:.0f} days left", _ISSUED_AT_A_START)
    return Finding("certificate", "ok", f"valid until {until}")


def launcher(secret: str, processes: Path = Path("/proc")) -> Finding:
    """Check that the SuperExec process with the argument ``secret`` (a path) runs."""
    found = [
        process
        for process in processes.glob("[0-9]*")
        if secret.encode() in _read(process / "cmdline").split(b"\0")
        and _read(process / "comm").strip() != SERVERAPP.encode()  # it has the same arguments
    ]
    if not found:
        said = f"{PROGRAM} does not run, so no round can begin"
        return Finding("launcher", "broken", said, _WITHIN_A_MINUTE)
    state = _read(found[0] / "stat").rpartition(b") ")[2][:1].decode()
    if state in "TtZX":
        said = f"{PROGRAM} was stopped (process {found[0].name}, state {state})"
        return Finding("launcher", "broken", said, f"kill -CONT {found[0].name}")
    return Finding("launcher", "ok", f"{PROGRAM} runs, as process {found[0].name}")


def _read(file: Path) -> bytes:
    """Return the content; empty if the process has ended or belongs to another user."""
    try:
        return file.read_bytes()
    except OSError:
        return b""


def open_files(limit: int) -> Finding:
    """Check the limit on open files; each hospital's agent needs four."""
    if 0 < limit < _FEW_FILES:
        return Finding(
            "open files",
            "warning",
            f"the limit is {limit}, and every hospital uses four",
            "raise it: LimitNOFILE=65536 in the unit, or ulimit -n 65536",
        )
    return Finding("open files", "ok", f"the limit is {limit}")
