"""What ``flo doctor`` finds at a site: its folder, the way to the coordinator, the data process.

In the order in which an agent would need it, so that the first broken one is the one to mend.
"""

from __future__ import annotations

import base64
import http.client
import logging
import socket
import sqlite3
import ssl
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from cryptography import x509
from packaging.version import Version
from pydantic import AwareDatetime

from flo.checkup import Finding, clock_beside, tried
from flo.clients.enrol import connect, context_of
from flo.clients.halt import halted
from flo.clients.home import Population, SiteHome
from flo.clients.worker import Worker
from flo.database import damaged
from flo.environment import software
from flo.errors import FloError, TrustError
from flo.proxy import proxy_for, shown
from flo.settings import Document, parse
from flo.text import printable

_WARN_DAYS = 30.0
_CONNECT_SECONDS = 10.0
_DRIVER = Path("/proc/driver/nvidia/version")


class CoordinatorSoftware(Document):
    """What a coordinator answers to ``software``: what it runs, and what time it has."""

    software: dict[str, str]
    time: AwareDatetime


def site(home: SiteHome) -> Iterator[Finding]:
    """Everything a round needs here."""
    try:
        device = home.config.device
    except FloError as error:
        yield Finding("configuration", "broken", str(error), error.hint or "edit site.toml")
        return
    yield Finding("configuration", "ok", f"{home.config.hospital}, {home.config_path}")
    keys = tried("key store", lambda: f"opens; fingerprint {home.identity().fingerprint[:16]}")
    yield keys
    if keys.state == "broken":
        return
    yield tried("ledger", lambda: _ledger(home))
    yield tried("policy", lambda: f"in force, digest {home.policy.digest[:12]}")
    yield _red_button(home)
    yield from _data(home)
    yield _gpu(device)
    yield _sandbox(home, device)
    yield certificate(home, datetime.now(UTC))
    if home.coordinator_path.exists():
        yield from way_out(home)


def _ledger(home: SiteHome) -> str:
    """Opening it checks its whole chain. One that is not there is not made."""
    path = home.directory / "ledger.sqlite"
    if not path.exists():
        raise TrustError(
            f"{path} is missing, and with it what this hospital has spent",
            hint="restore the newest backup, which charges what may have happened since: "
            "flo site restore, flo site recover",
        )
    try:
        with closing(home.audit_log()), closing(home.ledger()) as ledger:
            return f"whole, {ledger.head().sequence} rows"
    except sqlite3.DatabaseError as error:
        raise damaged(path, error) from error


def _red_button(home: SiteHome) -> Finding:
    since = halted(home)
    if since is None:
        return Finding("red button", "ok", "not pressed")
    return Finding(
        "red button", "broken", f"everything is stopped here since {since.time}", "flo site resume"
    )


def _data(home: SiteHome) -> Iterator[Finding]:
    for population in home.config.populations:
        found = tried(f"data of {population.name}", partial(_opened, population))
        if found.state == "broken":
            later = "; studies that were approved go on with what was frozen, others cannot be"
            found = replace(found, state="warning", says=found.says + later)
        yield found


def _opened(population: Population) -> str:
    population.open().offers()
    return f"{population.place} can be read"


def _gpu(device: str) -> Finding:
    import torch

    there = torch.cuda.is_available()
    if there:
        name = torch.cuda.get_device_name()
        return Finding("gpu", "ok", f"{name}, torch {torch.__version__}; device = {device}")
    driver = _DRIVER.exists()
    return gpu(device, has_driver=driver, torch_version=str(torch.__version__))


def gpu(device: str, *, has_driver: bool, torch_version: str) -> Finding:
    """Where torch sees no CUDA device. ``has_driver``: the kernel has NVIDIA's."""
    built = f"torch {torch_version} sees no CUDA device"
    if has_driver:
        return Finding(
            "gpu",
            "broken" if device == "cuda" else "warning",
            f"NVIDIA's driver is loaded, but {built}",
            "install a torch that is built for CUDA: pip install --force-reinstall torch",
        )
    if device == "cuda":
        return Finding(
            "gpu",
            "broken",
            f"device = cuda, but {built} and NVIDIA's driver is not loaded",
            'install the driver (nvidia-smi shows it), or set device = "auto" in site.toml',
        )
    return Finding("gpu", "ok", f"none; device = {device} trains on the CPU")


def _sandbox(home: SiteHome, device: str) -> Finding:
    """Start the very process that would hold patients, and ask what it is locked in by."""
    logging.getLogger("flo.clients.worker").setLevel(logging.CRITICAL)
    try:
        required = home.policy.confinement
    except FloError:
        required = ()  # said above
    worker = Worker(
        device, home.directory / "snapshots", home.directory / "identity.key", lambda: required
    )
    worker.start()
    try:
        missing, layers = worker.missing, worker.layers
    except FloError as error:
        return Finding("sandbox", "broken", str(error), error.hint)
    finally:
        worker.stop()
    held = [name for name, holds in layers.items() if holds]
    if missing:
        return Finding(
            "sandbox",
            "broken",
            f"the kernel does not give {', '.join(missing)}, which this site's policy asks for",
            "use Linux 5.13 or newer with Landlock and user namespaces "
            "(sysctl kernel.unprivileged_userns_clone, user.max_user_namespaces; "
            "kernel.apparmor_restrict_unprivileged_userns = 0) and keep this folder out of "
            f"{sys.prefix}, which Python has to read; or change `confinement` in policy.toml and "
            "sign it",
        )
    if len(held) < len(layers):
        less = ", ".join(sorted(set(layers) - set(held)))
        return Finding(
            "sandbox",
            "warning",
            f"the process with patients is locked in, without {less}, which the policy allows",
            "a newer kernel has all layers; the report names those that held",
        )
    return Finding("sandbox", "ok", f"locked in by {', '.join(held)}")


def certificate(home: SiteHome, now: datetime) -> Finding:
    """The hospital's own certificate at this time."""
    path = home.directory / "certificate.pem"
    if not path.exists():
        return Finding(
            "certificate",
            "broken",
            "this site is not enrolled (or has left)",
            "ask the coordinator for an invitation, then: flo site enrol INVITATION",
        )
    try:
        read = x509.load_pem_x509_certificate(path.read_bytes())
        context_of(home)
    except ValueError:
        read = None
    except FloError as error:
        return Finding("certificate", "broken", str(error), error.hint)
    if read is None:
        return Finding(
            "certificate", "broken", f"{path} is no certificate", "restore it, or enrol again"
        )
    left = (read.not_valid_after_utc - now) / timedelta(days=1)
    until = f"until {read.not_valid_after_utc:%Y-%m-%d}"
    if read.not_valid_before_utc > now:
        return Finding(
            "certificate",
            "broken",
            f"is valid from {read.not_valid_before_utc:%Y-%m-%d %H:%M} on only",
            "this machine's clock is behind: timedatectl set-ntp true, or chrony",
        )
    if left < _WARN_DAYS:
        return Finding(
            "certificate",
            "warning",
            f"{until}, {left:.0f} days",
            "a running agent renews it; start it: flo site run",
        )
    return Finding("certificate", "ok", f"{until}; a running agent renews it")


def way_out(home: SiteHome) -> Iterator[Finding]:
    """From here to the coordinator, one stretch after the other, up to the first broken one."""
    try:
        url = home.coordinator.url
        proxy = proxy_for(url)
    except FloError as error:
        yield Finding("proxy", "broken", str(error), error.hint)
        return
    first = proxy or url
    for stretch in (_resolves, _answers):
        finding = stretch("proxy" if proxy else "coordinator", first)
        if finding.state != "ok":
            yield finding
            return
    if proxy:
        yield Finding("proxy", "ok", f"{shown(proxy)}, as HTTPS_PROXY says")
    seen = issuer_seen(url, proxy)
    if isinstance(seen, Finding):
        yield seen
        return
    yield from asked(home, seen)


def _resolves(what: str, address: str) -> Finding:
    parts = urlsplit(address)
    try:
        socket.getaddrinfo(parts.hostname, parts.port or 443)
    except OSError as error:
        return Finding(
            what,
            "broken",
            f"no address is known for {parts.hostname} ({error.strerror})",
            "check the name and this machine's DNS (getent hosts), or add it to /etc/hosts; "
            + (
                "HTTPS_PROXY names it" if what == "proxy" else "or set HTTPS_PROXY, if there is one"
            ),
        )
    return Finding(what, "ok", "")


def _answers(what: str, address: str) -> Finding:
    parts = urlsplit(address)
    place = (parts.hostname or "", parts.port or 443)
    try:
        socket.create_connection(place, timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        why = "no answer" if isinstance(error, TimeoutError) else error.strerror or "refused"
        mend = (
            "check HTTPS_PROXY"
            if what == "proxy"
            else "is `flo coordinator serve` running? Let the firewall allow this machine to dial "
            f"{place[0]}:{place[1]} (TCP, outwards), or set HTTPS_PROXY"
        )
        return Finding(what, "broken", f"{place[0]}:{place[1]} does not answer ({why})", mend)
    return Finding(what, "ok", "")


def issuer_seen(url: str, proxy: str | None) -> str | Finding:
    """Who issued the certificate that is shown under the coordinator's address; verifies nothing.

    Nothing is sent there, and nothing that it shows is trusted. Empty where nobody shows one.
    """
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    there, way = urlsplit(url), urlsplit(proxy or url)
    place = (way.hostname or "", way.port or 443)
    line = http.client.HTTPSConnection(*place, context=context, timeout=_CONNECT_SECONDS)
    if proxy:
        line.set_tunnel(there.hostname or "", there.port or 443, _password(way))
    try:
        with closing(line):
            line.connect()
            der = line.sock.getpeercert(binary_form=True)
    except ssl.SSLError:
        return ""
    except OSError as error:  # http.client says so of a tunnel that it did not get
        return _closed(url, proxy, printable(str(error))[:100]) if proxy else ""
    return x509.load_der_x509_certificate(der).issuer.rfc4514_string() if der else ""


def _closed(url: str, proxy: str, said: str) -> Finding:
    return Finding(
        "proxy",
        "broken",
        f"the proxy {shown(proxy)} does not let us through ({said})",
        "give user and password in HTTPS_PROXY (http://USER:PASSWORD@HOST:PORT)"
        if "407" in said
        else f"have it allow CONNECT to {urlsplit(url).netloc}",
    )


def _password(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


def asked(home: SiteHome, issuer: str) -> Iterator[Finding]:
    """Whether the coordinator answers us, runs what we run, and has our time."""
    before = datetime.now(UTC)
    try:
        with connect(home) as api:
            answer = parse(
                CoordinatorSoftware, api.call("software", {}), "the coordinator's answer"
            )
    except FloError as error:
        yield _refused(home, issuer, error)
        return
    now = datetime.now(UTC)
    yield Finding("coordinator", "ok", f"{home.coordinator.url} answers")
    yield clock_beside((before + (now - before) / 2 - answer.time).total_seconds())
    yield versions(software(), answer.software)


def _refused(home: SiteHome, issuer: str, error: FloError) -> Finding:
    ours = x509.load_pem_x509_certificate((home.directory / "ca.pem").read_bytes())
    if issuer and issuer != ours.subject.rfc4514_string():
        return Finding(
            "proxy",
            "broken",
            f"something on the way looks into TLS: instead of the coordinator's certificate it "
            f"shows one issued by {printable(issuer)[:120]!r}",
            f"have {urlsplit(home.coordinator.url).hostname} exempted from TLS inspection; FLO "
            "trusts the consortium's authority only, and will not be made to trust another",
        )
    return Finding("coordinator", "broken", str(error), error.hint)


def versions(ours: dict[str, str], theirs: dict[str, str]) -> Finding:
    """Our software beside the coordinator's, as ``flo.environment.software`` gives both.

    A release works with the one before it and the one after it; Flower's have to be the same.
    """
    apart = [
        f"{name} {ours.get(name, 'missing')} here, {theirs.get(name, 'missing')} there"
        for name in ("flo", "flwr")
        if ours.get(name) != theirs.get(name)
    ]
    mend = "install the same release on both sides (docs/operating.md, upgrading)"
    if apart:
        near = _are_neighbours(ours, theirs)
        return Finding("versions", "warning" if near else "broken", "; ".join(apart), mend)
    if ours.get("code_digest") != theirs.get("code_digest"):
        said = "the same version with other code: one side runs a checkout or an edited copy"
        return Finding("versions", "warning", said, mend)
    return Finding("versions", "ok", f"FLO {ours['flo']}, as the coordinator")


def _are_neighbours(ours: dict[str, str], theirs: dict[str, str]) -> bool:
    try:
        (major, minor), (other, beside) = (
            Version(found["flo"]).release[:2] for found in (ours, theirs)
        )
        flower, others = (Version(found["flwr"]).release[:2] for found in (ours, theirs))
    except (KeyError, ValueError):
        return False
    return (major, flower) == (other, others) and abs(minor - beside) <= 1
