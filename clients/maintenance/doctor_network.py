"""``flo doctor``'s checks of the connection from a site to its coordinator, and of the coordinator.

Checks run in order and end at the first broken one: name, port, proxy, TLS, the coordinator's
answer, its clock, software and key, and the head that it saw of our ledger. No check changes state
or releases data.
"""

from __future__ import annotations

import base64
import http.client
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from urllib.parse import SplitResult, unquote, urlsplit

from cryptography import x509
from packaging.version import Version
from pydantic import AwareDatetime

from flo.clients.connection.cosigning import head_seen
from flo.clients.connection.enrolment import connect, newest_key
from flo.clients.home.site_home import SiteHome
from flo.documents.document import Document, parse
from flo.documents.text import escape_for_terminal
from flo.errors import FloError
from flo.host.diagnostics import Finding, clock_beside
from flo.host.environment import software
from flo.host.proxy import place_of, proxy_for, shown
from flo.keys.claims import LedgerHead
from flo.keys.tls import read_certificate

_CONNECT_SECONDS = 10.0


class CoordinatorSoftware(Document):
    """A coordinator's reply to ``software``: the versions that it runs, and its time."""

    software: dict[str, str]
    time: AwareDatetime


def check_network_path(home: SiteHome) -> Iterator[Finding]:
    """Check each part of the path to the coordinator, up to the first broken one."""
    try:
        url = home.read_coordinator().url
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
    yield from check_coordinator(home, seen)


def _resolves(what: str, address: str) -> Finding:
    host, port = place_of(address)
    try:
        socket.getaddrinfo(host, port)
    except OSError as error:
        return Finding(
            what,
            "broken",
            f"no address is known for {host} ({error.strerror})",
            "check the name and this machine's DNS (getent hosts), or add it to /etc/hosts; "
            + ("HTTPS_PROXY sets it" if what == "proxy" else "or set HTTPS_PROXY, if there is one"),
        )
    return Finding(what, "ok", "")


def _answers(what: str, address: str) -> Finding:
    place = place_of(address)
    try:
        socket.create_connection(place, timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        why = "no answer" if isinstance(error, TimeoutError) else error.strerror or "refused"
        mend = (
            "check HTTPS_PROXY"
            if what == "proxy"
            else "check that `flo coordinator serve` runs there and that the firewall lets this "
            f"machine connect to {place[0]}:{place[1]} (TCP, outwards), or set HTTPS_PROXY"
        )
        return Finding(what, "broken", f"{place[0]}:{place[1]} does not answer ({why})", mend)
    return Finding(what, "ok", "")


def issuer_seen(url: str, proxy: str | None) -> str | Finding:
    """Return the issuer of the certificate shown at the coordinator's address, unverified.

    No request is sent there, and the certificate is not trusted. Empty if no certificate is shown,
    or if the proxy itself uses TLS: our password would reach it in clear text. A finding if the
    proxy refuses the tunnel.
    """
    if proxy and urlsplit(proxy).scheme.lower() == "https":
        return ""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    line = http.client.HTTPSConnection(
        *place_of(proxy or url), context=context, timeout=_CONNECT_SECONDS
    )
    if proxy:
        line.set_tunnel(*place_of(url), _password(urlsplit(proxy)))
    try:
        with closing(line):
            line.connect()
            der = line.sock.getpeercert(binary_form=True)
    except ssl.SSLError:
        return ""
    except (OSError, http.client.HTTPException) as error:  # no tunnel, or not HTTP
        return _proxy_refused(url, proxy, escape_for_terminal(str(error))[:100]) if proxy else ""
    return x509.load_der_x509_certificate(der).issuer.rfc4514_string() if der else ""


def _proxy_refused(url: str, proxy: str, said: str) -> Finding:
    return Finding(
        "proxy",
        "broken",
        f"the proxy {shown(proxy)} refuses the connection ({said})",
        "give user and password in HTTPS_PROXY (http://USER:PASSWORD@HOST:PORT)"
        if "407" in said
        else f"have it allow CONNECT to {urlsplit(url).netloc}",
    )


def _password(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


def check_coordinator(home: SiteHome, issuer: str) -> Iterator[Finding]:
    """Check whether the coordinator answers us, and its software, time, key and our ledger head."""
    try:
        with connect(home) as api:
            before = datetime.now(UTC)
            said = api.call("software", {})
            now = datetime.now(UTC)
            seen, newest = head_seen(api), newest_key(home, api)
        answer = parse(CoordinatorSoftware, said, "the coordinator's answer")
    except FloError as error:
        yield _refused(home, issuer, error)
        return
    yield Finding("coordinator", "ok", f"{home.read_coordinator().url} answers")
    yield clock_beside((before + (now - before) / 2 - answer.time).total_seconds())
    yield check_versions(software(), answer.software)
    yield coordinator_key(home.read_coordinator().public, newest)
    if not (home.directory / "ledger.sqlite").exists():
        return  # opening the ledger would create it
    with suppress(FloError), closing(home.open_ledger()) as ledger:  # the site's checks report it
        yield check_ledger_head(seen, ledger.head())


def coordinator_key(known: str, newest: str) -> Finding:
    """Compare the key that this site trusts with the coordinator's newest key (hexadecimal)."""
    if known == newest:
        return Finding("coordinator's key", "ok", "is the one that this site accepted")
    return Finding(
        "coordinator's key",
        "warning",
        "the coordinator has a new key; this site accepts nothing that this key signs",
        "compare it by telephone, then: flo site coordinator --accept FINGERPRINT",
    )


def check_ledger_head(seen: LedgerHead | None, ours: LedgerHead) -> Finding:
    """Compare the end of our ledger with the highest head that the coordinator saw of it."""
    ahead = seen is not None and seen.sequence > ours.sequence
    other = seen is not None and seen.sequence == ours.sequence and seen.hash != ours.hash
    if seen is not None and (ahead or other):
        return Finding(
            "newest ledger",
            "broken",
            f"the coordinator saw row {seen.sequence} of this ledger, and here "
            + (f"the ledger ends at row {ours.sequence}" if ahead else "that row is another one")
            + ": this is an older copy of the folder, or one of two that were used",
            "put back the copy that has that row; if there is none: flo site restore, or "
            "flo site recover",
        )
    return Finding("newest ledger", "ok", "the coordinator saw no newer row")


def _refused(home: SiteHome, issuer: str, error: FloError) -> Finding:
    ours = read_certificate(home.directory / "ca.pem")
    if issuer and issuer != ours.subject.rfc4514_string():
        return Finding(
            "proxy",
            "broken",
            "a device on the way inspects TLS: instead of the coordinator's certificate it shows "
            f"one issued by {escape_for_terminal(issuer)[:120]!r}",
            f"have {urlsplit(home.read_coordinator().url).hostname} exempted from TLS inspection; "
            "FLO trusts the consortium's authority only, which no setting changes",
        )
    return Finding("coordinator", "broken", str(error), error.hint)


def check_versions(ours: dict[str, str], theirs: dict[str, str]) -> Finding:
    """Compare our software with the coordinator's, both from ``flo.host.environment.software``.

    A release works with the one before it and the one after it; Flower's major and minor version
    must be the same on both sides.
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
