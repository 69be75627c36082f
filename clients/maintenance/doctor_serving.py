"""``flo doctor``'s checks of a site whose models answer the record system (``serve.toml``)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from flo.clients.home.site_home import SiteHome
from flo.clients.serving import callers, local
from flo.clients.serving.settings import FILE, ServeConfig, read_serve_config
from flo.errors import TrustError
from flo.host.diagnostics import Finding, tried
from flo.keys.tls import read_certificate

_WARN_DAYS = 30


def serving(home: SiteHome) -> Iterator[Finding]:
    """Check configuration, callers' keys, certificate, and who answers, if there is the file."""
    if not (home.directory / FILE).exists():
        return
    config: list[ServeConfig] = []

    def read() -> str:
        config.append(read_serve_config(home.directory))
        callers.read_keys(config[0].callers, home.directory)
        return f"{len(config[0].callers)} callers may ask for {', '.join(sorted(config[0].models))}"

    yield tried("serving", read, f"correct {FILE}")
    if not config:
        return
    yield _certificate(home, config[0])
    yield _answers(home)


def _certificate(home: SiteHome, config: ServeConfig) -> Finding:
    try:
        ends = read_certificate(home.directory / config.certificate).not_valid_after_utc
    except TrustError as error:
        return Finding("server certificate", "broken", str(error), error.hint)
    left = ends - datetime.now(UTC)
    until = f"until {ends:%Y-%m-%d}"
    if left < timedelta():
        return Finding("server certificate", "broken", f"expired: {until}", "renew it")
    if left < timedelta(days=_WARN_DAYS):
        return Finding("server certificate", "warning", until, "renew it; it is read again")
    return Finding("server certificate", "ok", until)


def _answers(home: SiteHome) -> Finding:
    found = local.status(home.directory)
    if found is None:
        return Finding(
            *("server", "warning", "no server answers on this folder"),
            "systemctl start flo-model; or flo model serve",
        )
    silent = [f"{one['name']}: {one['why']}" for one in found["models"] if not one["title"]]
    if silent:
        return Finding("server", "broken", "; ".join(silent), "flo model states")
    said = ", ".join(f"{one['title']} as {one['name']}" for one in found["models"])
    late = [one["why"] for one in found["models"] if one["why"]]
    if late:
        return Finding("server", "warning", "; ".join(late), "flo model states")
    return Finding("server", "ok", f"{said}, {found['workers']} processes")
