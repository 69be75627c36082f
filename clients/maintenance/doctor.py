"""``flo doctor``'s checks of a site: its folder, data, data process and certificate.

Checks run in the order in which an agent needs the parts, so the first broken one is the one to
repair. ``doctor_devices`` checks where it trains, ``doctor_network`` the connection.
"""

from __future__ import annotations

import logging
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

from cryptography import x509

from flo.clients.connection.enrolment import context_of
from flo.clients.data_process.worker import DataProcess
from flo.clients.home.emergency_stop import halted
from flo.clients.home.site_config import Population, SiteConfig
from flo.clients.home.site_home import SiteHome
from flo.clients.maintenance.doctor_devices import training
from flo.clients.maintenance.doctor_network import check_network_path
from flo.clients.maintenance.doctor_serving import serving
from flo.clients.patients.birth import refuse_changed_birth
from flo.clients.prediction import versions
from flo.errors import DataError, FloError, TrustError
from flo.host.diagnostics import Finding, key_store, tried
from flo.storage.database import refuse_damaged, unusable

_RESTORE = "move the folder away, then: flo site restore"
_WARN_DAYS = 30.0


def site(home: SiteHome) -> Iterator[Finding]:
    """Check all that a round needs at this site."""
    try:
        config = home.read_config()
    except FloError as error:
        yield Finding("configuration", "broken", str(error), error.hint or "edit site.toml")
        return
    yield Finding("configuration", "ok", f"{config.hospital}, {home.config_path}")
    keys = key_store(lambda: home.open_identity().fingerprint)
    yield keys
    if keys.state == "broken":
        return
    ledger = tried("ledger", lambda: _ledger(home), _RESTORE)
    yield ledger
    if ledger.state == "ok":
        yield tried("settings", lambda: _as_born(home), "undo the change in site.toml")
    yield tried(
        "policy",
        lambda: f"in force, digest {home.read_policy().digest[:12]}",
        "correct policy.toml, then: flo site policy --sign",
    )
    yield agent(is_running=home.is_agent_running())
    yield _red_button(home)
    yield models(home)
    yield from serving(home)
    yield from _data(home)
    yield training(config.device, config.processes)
    yield _sandbox(home, config)
    yield certificate(home, datetime.now(UTC))
    if home.coordinator_path.exists():
        yield from check_network_path(home)


def _ledger(home: SiteHome) -> str:
    """Open the ledger, which checks its whole chain; never create a missing one."""
    path = home.directory / "ledger.sqlite"
    if not path.exists():
        raise TrustError(
            f"{path} is missing, and with it the record of what this hospital has spent",
            hint="move the folder away, restore its newest backup (flo site restore), and charge "
            "what may have been released since (flo site recover)",
        )
    for name in ("ledger.sqlite", "audit.sqlite"):
        refuse_damaged(home.directory / name)
    try:
        with closing(home.open_audit_log()), closing(home.open_ledger()) as ledger:
            return f"whole, {ledger.head().sequence} rows"
    except sqlite3.Error as error:
        raise unusable(path, error) from error


def _as_born(home: SiteHome) -> str:
    """Check that site.toml has the settings that each population's birth fixed permanently."""
    with closing(home.open_ledger()) as ledger:
        for population in home.read_config().populations:
            if population.name in ledger.balance().lives:
                refuse_changed_birth(home, ledger, population)
    return "unchanged since the populations were registered"


def agent(*, is_running: bool) -> Finding:
    """Report whether an agent runs on this folder."""
    if is_running:
        return Finding("agent", "ok", "is running")
    return Finding(
        "agent",
        "warning",
        "no agent runs on this folder",
        "systemctl start flo-site; or flo site run",
    )


def _red_button(home: SiteHome) -> Finding:
    since = halted(home)
    if since is None:
        return Finding("red button", "ok", "not pressed")
    return Finding(
        "red button", "broken", f"everything is stopped here since {since.time}", "flo site resume"
    )


def models(home: SiteHome) -> Finding:
    """Report which versions of models are in use, and whether withdrawals arrive here."""
    try:
        found = versions.read(home)
    except FloError as error:
        return Finding("models", "warning", str(error), error.hint)
    if found.names and (late := found.late(versions.LATE)):
        return Finding(
            "models",
            "warning",
            f"what the coordinator withdrew since {late} is not known here",
            "the agent asks every few seconds: see that it runs, and its log",
        )
    used = [(name, found.current(name)) for name in found.names]
    said = [f"{name} version {one.version}" for name, one in used if one is not None]
    return Finding("models", "ok", f"in use: {', '.join(said)}" if said else "none is in use")


def _data(home: SiteHome) -> Iterator[Finding]:
    for population in home.read_config().populations:
        name = f"data of {population.name}"
        found = tried(name, partial(_opened, population), "let this user read it (chown, chmod)")
        if found.state == "broken":
            later = "; approved studies continue on frozen patients, others cannot be approved"
            found = replace(found, state="warning", message=found.message + later)
        yield found


def _opened(population: Population) -> str:
    source = population.open()
    source.fields()
    if next(iter(source.ids()), None) is None:
        raise DataError(
            f"{population.place} has no patients, or no column {population.id_column!r}",
            hint="id_column in site.toml cannot be changed; the data must have that column",
        )
    return f"{population.place} can be read"


def _sandbox(home: SiteHome, config: SiteConfig) -> Finding:
    """Start the process that would hold patients and report which layers confine it."""
    finding = partial(Finding, "sandbox")
    logging.getLogger("flo.clients.data_process.worker").setLevel(logging.CRITICAL)
    try:
        required = home.read_policy().confinement
    except FloError:
        required = ()  # the policy's own check reports this error
    worker = DataProcess(
        config.device,
        home.directory / "snapshots",
        home.directory / "identity.key",
        lambda: required,
        processes=config.processes,
    )
    worker.start()
    try:
        missing, layers = worker.missing, worker.layers
    except FloError as error:
        return finding("broken", str(error), error.hint)
    finally:
        worker.stop()
    held = [name for name, holds in layers.items() if holds]
    if missing:
        return finding(
            "broken",
            f"the kernel does not provide {', '.join(missing)}, which this site's policy requires",
            "use Linux 5.13 or newer with Landlock and user namespaces "
            "(sysctl kernel.unprivileged_userns_clone, user.max_user_namespaces; "
            "kernel.apparmor_restrict_unprivileged_userns = 0) and keep this folder out of "
            f"{sys.prefix}, which Python has to read; or change `confinement` in policy.toml and "
            "sign it",
        )
    if len(held) < len(layers):
        less = ", ".join(sorted(set(layers) - set(held)))
        return finding(
            "warning",
            f"the data process is confined, but not by {less}; the policy allows that",
            "a newer kernel has all layers; the budget report names those that hold",
        )
    return finding("ok", f"confined by {', '.join(held)}")


def certificate(home: SiteHome, now: datetime) -> Finding:
    """Check the hospital's own certificate at the time ``now``."""
    finding = partial(Finding, "certificate")
    path = home.directory / "certificate.pem"
    if not path.exists():
        return finding(
            "broken",
            "this site is not enrolled (or has left)",
            "ask the coordinator for an invitation, then: flo site enrol INVITATION",
        )
    try:
        read = x509.load_pem_x509_certificate(path.read_bytes())
        context_of(home)
    except ValueError:
        return finding("broken", f"{path} is not a certificate", "restore it, or enrol again")
    except FloError as error:
        clock = f"; if it is not {now:%Y-%m-%d} today, set this machine's clock"
        return finding("broken", str(error), error.hint + clock)
    left = (read.not_valid_after_utc - now) / timedelta(days=1)
    until = f"until {read.not_valid_after_utc:%Y-%m-%d}"
    if read.not_valid_before_utc > now:
        return finding(
            "broken",
            f"is not valid before {read.not_valid_before_utc:%Y-%m-%d %H:%M}",
            "this machine's clock is behind: timedatectl set-ntp true, or chrony",
        )
    if left < _WARN_DAYS:
        return finding(
            "warning",
            f"{until}, {left:.0f} days",
            "a running agent renews it; start it: flo site run",
        )
    return finding("ok", f"{until}; a running agent renews it")
