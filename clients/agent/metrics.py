"""What a site's agent measures of itself, for the hospital's own monitoring. It opens no port: it
writes a file that Prometheus's node exporter reads, and log lines that CloudWatch reads.

No value is derived from patients.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from flo.clients.home.site_home import SiteHome
from flo.clients.prediction import versions
from flo.clients.records.approval import approved_digests
from flo.host.metrics import Kind, Metric, of_machine
from flo.keys.tls import read_certificate


def _gauge(name: str, unit: str, help_: str) -> Kind:
    return Kind(f"site_{name}", "gauge", unit, help_)


def _counter(name: str, help_: str) -> Kind:
    return Kind(f"site_{name}", "counter", "Count", help_)


CONNECTED = _gauge("connected", "None", "1 while the agent is connected to the coordinator.")
CLOSED = _gauge("closed", "None", "1 while no release is allowed here: stopped, or out of hours.")
SILENT = _gauge(
    "coordinator_silent_seconds", "Seconds", "Since the coordinator was last asked for decisions."
)
CERTIFICATE = _gauge("certificate_seconds", "Seconds", "Until the site's certificate ends.")
CONNECTS = _counter("connections", "Connections to the coordinator.")
FAILED = _counter("connections_failed", "Connections that ended or could not be made.")
ANSWERED = _counter("answers", "Messages of studies that were answered.")
RELEASES = _counter("releases", "Answers with a release, which the ledger charges.")
REFUSED = _counter("refusals", "Messages of studies that were refused.")
IGNORED = _counter("ignored", "Messages that could not be read.")
RESTARTS = _counter("child_restarts", "Restarts of the process that holds patients.")
LAYERS = _gauge("confinement_missing", "Count", "Layers of confinement that this machine lacks.")
APPROVALS = _gauge("approvals", "Count", "Approvals of studies that are stored here.")
ENTRIES = _gauge("audit_entries", "Count", "Entries of the audit log.")
UPTIME = _gauge("uptime_seconds", "Seconds", "Since the agent began.")
MEMORY = _gauge("memory_bytes", "Bytes", "Memory of the agent's process.")
DISK = _gauge("disk_free_bytes", "Bytes", "Free on the disk of the site's folder.")
KINDS = (
    *(CONNECTED, CLOSED, SILENT, CERTIFICATE, CONNECTS, FAILED, ANSWERED, RELEASES, REFUSED),
    *(IGNORED, RESTARTS, LAYERS, APPROVALS, ENTRIES, UPTIME, MEMORY, DISK),
)


@dataclass
class Counted:
    """What an agent counts while it runs."""

    began: float = field(default_factory=time.monotonic)
    connected: bool = False
    closed: bool = False
    connects: int = 0
    failed: int = 0
    answered: int = 0
    releases: int = 0
    refused: int = 0
    ignored: int = 0
    restarts: int = 0
    unconfined: int = 0

    @contextmanager
    def connection(self) -> Iterator[None]:
        """Count a connection, for as long as it lasts."""
        self.connects += 1
        self.connected = True
        try:
            yield
        finally:
            self.connected = False

    def answer(self, kind: str) -> None:
        """Count a message that was answered, by the kind of the reply."""
        self.answered += 1
        self.releases += kind == "release"
        self.refused += kind == "refused"


def measured(home: SiteHome, counted: Counted) -> list[Metric]:
    """Return current metrics of a site."""
    seen = versions.read(home).seen
    now = datetime.now(UTC)
    certificate = read_certificate(home.directory / "certificate.pem")
    with closing(home.open_audit_log()) as log:
        entries, _ = log.latest(1)
    folder = home.directory
    silent = (now - datetime.fromisoformat(seen)).total_seconds() if seen else 0.0
    return [
        CONNECTED.of(counted.connected),
        CLOSED.of(counted.closed),
        SILENT.of(max(silent, 0.0)),
        CERTIFICATE.of((certificate.not_valid_after_utc - now).total_seconds()),
        CONNECTS.of(counted.connects),
        FAILED.of(counted.failed),
        ANSWERED.of(counted.answered),
        RELEASES.of(counted.releases),
        REFUSED.of(counted.refused),
        IGNORED.of(counted.ignored),
        RESTARTS.of(counted.restarts),
        LAYERS.of(counted.unconfined),
        APPROVALS.of(len(approved_digests(home))),
        ENTRIES.of(entries[0].number if entries else 0),
        *of_machine(folder, (UPTIME, MEMORY, DISK), counted.began),
    ]
