"""``flo site ...``: set up and run a site; show its budget."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from flo.cli.site import results
from flo.cli.terminal.command import command
from flo.cli.terminal.options import (
    SITE_FOLDER,
    KeyStoreKind,
    KeyStorePath,
    Quiet,
    ServiceUser,
    SiteFolder,
    Verbose,
    Yes,
)
from flo.cli.terminal.results import UnitResult

app = typer.Typer()


@command(app)
def init(
    hospital: Annotated[str, typer.Argument(help="Id of this hospital, as in its invitation.")],
    data: Annotated[Path, typer.Option(help="CSV or Parquet file, or TOML with a \\[source].")],
    declared_size: Annotated[int, typer.Option(help="Public, rounded number of patients.")],
    home: SiteFolder = SITE_FOLDER,
    id_column: Annotated[str, typer.Option(help="Column with the patient id.")] = "patient_id",
    epsilon: Annotated[float, typer.Option(help="Life budget of these patients.")] = 0.9,
    hold_out: Annotated[float, typer.Option(help="Share of patients never trained on.")] = 0.3,
    consent: Annotated[
        bool, typer.Option("--consent-to-epsilon-of-one-or-more", help="Policy: allow ε ≥ 1.")
    ] = False,
    keystore: KeyStoreKind = "file",
    keystore_path: KeyStorePath = None,
) -> results.SiteMadeResult:
    """Create this hospital's keys, ledger and policy, and the life budget of its patients."""
    from flo.cli.terminal.output import keystore_document, say
    from flo.clients.home.policy import Policy
    from flo.clients.home.site_config import make_config
    from flo.clients.home.site_home import SiteHome
    from flo.errors import UsageError
    from flo.keys.identity import format_fingerprint
    from flo.study.terms import largest_delta

    if not data.is_file():
        raise UsageError(
            f"no data file {data}",
            hint="--data names a CSV or Parquet file, or TOML with a [source] (docs/connectors.md)",
        )
    config = make_config(
        hospital,
        file=data,
        id_column=id_column,
        epsilon=epsilon,
        declared_size=declared_size,
        hold_out=hold_out,
        keystore=keystore_document(keystore, keystore_path),
    )
    policy = Policy(consent_to_epsilon_of_one_or_more=consent)
    made = SiteHome.create(home, config, policy)
    size = config.populations[0].declared_size
    say(f"created the site of {hospital} in {home}; declared size {size}")
    own, delta = made.open_identity().fingerprint, largest_delta(size)
    say(f"life budget: ε = {epsilon:g} at δ = {delta:g}, fixed permanently")
    say(f"fingerprint, to read out: {format_fingerprint(own)}")
    say(f"policy of this site: {home / 'policy.toml'} (flo site policy)")
    say(f"next: flo site enrol INVITATION --home {home}")
    return results.SiteMadeResult(hospital, str(home), size, epsilon, delta, own)


@command(app)
def population(home: SiteFolder = SITE_FOLDER) -> results.RegisteredResult:
    """Register populations that were added to site.toml; their budgets are fixed from then on."""
    from flo.cli.terminal.output import say
    from flo.clients.home.site_home import SiteHome

    added = SiteHome.open(home).register_populations()
    say(f"registered: {', '.join(added)}" if added else "no new population in site.toml")
    return results.RegisteredResult(added)


@command(app)
def enrol(
    invitation: Annotated[Path, typer.Argument(help="The file the coordinator gave you.")],
    home: SiteFolder = SITE_FOLDER,
) -> results.SiteEnrolledResult:
    """Get a certificate for this site's key; the key stays here."""
    from flo.cli.terminal.output import say, working
    from flo.clients.connection.enrolment import enrol as use_invitation
    from flo.clients.home.site_home import SiteHome
    from flo.keys.identity import format_fingerprint

    with working("enrolling"):
        done = use_invitation(SiteHome.open(home), invitation)
    say(f"{done.hospital} is enrolled. Compare by telephone before you approve anything:")
    say(f"  ours:        {format_fingerprint(done.own)}")
    say(f"  coordinator: {format_fingerprint(done.coordinator)}")
    say(f"next: flo site run --home {home}; to decide on studies: flo site desk --home {home}")
    return results.SiteEnrolledResult(done.hospital, done.own, done.coordinator)


@command(app)
def coordinator(
    accept: Annotated[
        str | None, typer.Option(help="Fingerprint of its new key, as it was read out to you.")
    ] = None,
    home: SiteFolder = SITE_FOLDER,
) -> results.CoordinatorKeyResult:
    """Show the coordinator's fingerprint; accept its new key after you have compared it."""
    from flo.cli.terminal.output import say
    from flo.clients.connection.enrolment import accept_coordinator, connect
    from flo.clients.home.site_home import SiteHome
    from flo.keys.identity import format_fingerprint

    opened = SiteHome.open(home)
    if accept is not None:
        with connect(opened) as api:
            accept_coordinator(opened, api, accept)
    info = opened.read_coordinator()
    now, *earlier = info.fingerprints
    say(f"{info.url}: {format_fingerprint(now)}")
    for before in earlier:
        say(f"  before: {format_fingerprint(before)}")
    return results.CoordinatorKeyResult(info.url, now, earlier)


@command(app)
def leave(home: SiteFolder = SITE_FOLDER, yes: Yes = False) -> results.LeftResult:
    """Leave the consortium: our certificate is revoked; data, ledger, keys and logs stay here."""
    from flo.cli.terminal.output import confirmed, say
    from flo.clients.connection.enrolment import connect
    from flo.clients.connection.enrolment import leave as go
    from flo.clients.home.site_home import SiteHome
    from flo.errors import RefusedError

    opened = SiteHome.open(home)
    if not confirmed("Leave the consortium and revoke this hospital's certificate?", yes):
        raise RefusedError("nothing was changed", hint="--yes leaves without asking")
    with connect(opened) as api:
        go(opened, api)
    say("left: the certificate is revoked; this folder keeps the ledger and its budget")
    return results.LeftResult(opened.read_config().hospital)


@app.command()
def run(
    home: SiteFolder = SITE_FOLDER,
    device: Annotated[
        str | None, typer.Option(envvar="FLO_DEVICE", help="auto, cpu or cuda.")
    ] = None,
    verbose: Verbose = 0,
    quiet: Quiet = False,
) -> None:
    """Run the agent until stopped: dial out, train approved studies, charge the ledger."""
    from flo.clients.agent.agent import Agent
    from flo.clients.home.site_home import SiteHome
    from flo.errors import UsageError
    from flo.host.logs import start_logging

    opened = SiteHome.open(home)
    wanted = opened.read_config().device if device is None else device
    if wanted not in ("auto", "cpu", "cuda"):
        raise UsageError(f"device {wanted!r} is not one of auto, cpu, cuda")
    start_logging(home / "log" / "agent.jsonl", verbosity=-1 if quiet else verbose)
    Agent(opened, wanted).run()


@command(app)
def budget(home: SiteFolder = SITE_FOLDER) -> results.BudgetResult:
    """Draw each population's life budget: spent, reserved, free, over time, and what still fits."""
    from flo.cli.site.budget_view import show
    from flo.clients.home.site_home import SiteHome

    with closing(SiteHome.open(home).open_ledger()) as ledger:
        return results.BudgetResult(show(ledger))


@command(app, "unit")
def site_unit(home: SiteFolder = SITE_FOLDER, user: ServiceUser = "flo") -> UnitResult:
    """Print a systemd unit for the agent of this site, sandboxed as far as possible."""
    from flo.cli.terminal.output import verbatim
    from flo.clients.home.site_home import SiteHome
    from flo.infra.systemd.units import unit

    device = SiteHome.open(home).read_config().device
    return UnitResult(verbatim(unit("site", home, user, device)))
