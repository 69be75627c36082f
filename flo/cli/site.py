"""``flo site ...``: setting a site up and running it; see also ``steward`` and ``hospital``."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from flo.cli import results
from flo.cli.command import command

app = typer.Typer(no_args_is_help=True)
Home = Annotated[Path, typer.Option(envvar="FLO_SITE_HOME", help="The site's folder.")]
DEFAULT_HOME = Path("site")


@command(app)
def init(
    hospital: Annotated[str, typer.Argument(help="Id of this hospital, as in its invitation.")],
    data: Annotated[Path, typer.Option(help="CSV or Parquet file, or TOML with a \\[source].")],
    declared_size: Annotated[int, typer.Option(help="Public, rounded number of patients.")],
    home: Home = DEFAULT_HOME,
    id_column: Annotated[str, typer.Option(help="Column with the patient id.")] = "patient_id",
    epsilon: Annotated[float, typer.Option(help="Life budget of these patients.")] = 0.9,
    hold_out: Annotated[float, typer.Option(help="Share never trained on, for life.")] = 0.3,
    consent: Annotated[
        bool, typer.Option("--consent-to-epsilon-of-one-or-more", help="Policy: allow ε ≥ 1.")
    ] = False,
    keystore: Annotated[
        str, typer.Option(help="What seals the keys: file, passphrase, or the ARN of a KMS key.")
    ] = "file",
    keystore_path: Annotated[
        Path | None, typer.Option(help="The key file, if not in the folder.")
    ] = None,
) -> results.SiteMade:
    """Make this hospital's keys, its ledger, its policy, and the life budget of its patients."""
    from flo.cli.screen import keystore_document, say
    from flo.clients.home import SiteHome
    from flo.clients.policy import Policy
    from flo.clients.site_config import make_config
    from flo.errors import UsageError
    from flo.identity import spoken
    from flo.study import largest_delta

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
    say(f"site of {hospital} made in {home}; declared size {size}")
    own, delta = made.identity().fingerprint, largest_delta(size)
    say(f"life budget: ε = {epsilon:g} at δ = {delta:g}, for good")
    say(f"fingerprint, to read out: {spoken(own)}")
    say(f"what this site allows: {home / 'policy.toml'} (flo site policy)")
    say(f"next: flo site enrol INVITATION --home {home}")
    return results.SiteMade(hospital, str(home), size, epsilon, delta, own)


@command(app)
def population(home: Home = DEFAULT_HOME) -> results.Registered:
    """Register populations that were added to site.toml; their budgets are fixed from then on."""
    from flo.cli.screen import say
    from flo.clients.home import SiteHome

    added = SiteHome.open(home).register_populations()
    say(f"registered: {', '.join(added)}" if added else "nothing new in site.toml")
    return results.Registered(added)


@command(app)
def enrol(
    invitation: Annotated[Path, typer.Argument(help="The file the coordinator gave you.")],
    home: Home = DEFAULT_HOME,
) -> results.SiteEnrolled:
    """Get a certificate for this site's key; the key stays here."""
    from flo.cli.screen import say, working
    from flo.clients.enrol import enrol as use_invitation
    from flo.clients.home import SiteHome
    from flo.identity import spoken

    with working("enrolling"):
        done = use_invitation(SiteHome.open(home), invitation)
    say(f"{done.hospital} is enrolled. Compare by telephone before you approve anything:")
    say(f"  ours:        {spoken(done.own)}")
    say(f"  coordinator: {spoken(done.coordinator)}")
    say(f"next: flo site run --home {home}, and beside it, to decide: flo site desk --home {home}")
    return results.SiteEnrolled(done.hospital, done.own, done.coordinator)


@command(app)
def coordinator(
    accept: Annotated[
        str | None, typer.Option(help="Fingerprint of its new key, as it was read out to you.")
    ] = None,
    home: Home = DEFAULT_HOME,
) -> results.CoordinatorKey:
    """Show the coordinator's fingerprint; follow it to a new key once you have compared it."""
    from flo.cli.screen import say
    from flo.clients.enrol import accept_coordinator, connect
    from flo.clients.home import SiteHome
    from flo.identity import spoken

    opened = SiteHome.open(home)
    if accept is not None:
        with connect(opened) as api:
            accept_coordinator(opened, api, accept)
    info = opened.coordinator
    now, *earlier = info.fingerprints
    say(f"{info.url}: {spoken(now)}")
    for before in earlier:
        say(f"  before: {spoken(before)}")
    return results.CoordinatorKey(info.url, now, earlier)


@command(app)
def leave(
    home: Home = DEFAULT_HOME,
    yes: Annotated[bool, typer.Option("--yes", help="Without asking again.")] = False,
) -> results.Left:
    """Leave the consortium: our certificate is revoked; data, ledger, keys and logs stay here."""
    from flo.cli.screen import confirmed, say
    from flo.clients.enrol import connect
    from flo.clients.enrol import leave as go
    from flo.clients.home import SiteHome
    from flo.errors import RefusedError

    opened = SiteHome.open(home)
    if not confirmed("Leave, and have this hospital's certificate revoked?", yes):
        raise RefusedError("nothing was changed", hint="--yes leaves at once")
    with connect(opened) as api:
        go(opened, api)
    say("left: the certificate is revoked; the ledger and its budget are kept for good")
    return results.Left(opened.config.hospital)


@app.command()
def run(
    home: Home = DEFAULT_HOME,
    device: Annotated[
        str | None, typer.Option(envvar="FLO_DEVICE", help="auto, cpu or cuda.")
    ] = None,
    verbose: Annotated[int, typer.Option("-v", count=True, help="More on the screen.")] = 0,
    quiet: Annotated[bool, typer.Option("-q", help="Errors only on the screen.")] = False,
) -> None:
    """Run the agent: dial out, train what is approved, keep the ledger; until stopped."""
    from flo.clients.agent import Agent
    from flo.clients.home import SiteHome
    from flo.errors import UsageError
    from flo.logs import start_logging

    opened = SiteHome.open(home)
    wanted = opened.config.device if device is None else device
    if wanted not in ("auto", "cpu", "cuda"):
        raise UsageError(f"device {wanted!r} is not one of auto, cpu, cuda")
    start_logging(home / "log" / "agent.jsonl", verbosity=-1 if quiet else verbose)
    Agent(opened, wanted).run()


@command(app)
def budget(
    home: Home = DEFAULT_HOME,
) -> results.Budget:
    """Draw each population's life budget: spent, reserved, free, over time, and what still fits."""
    from flo.cli.budget import show
    from flo.clients.home import SiteHome

    with closing(SiteHome.open(home).ledger()) as ledger:
        return results.Budget(show(ledger))


@command(app)
def extract(
    study: Annotated[str, typer.Argument(help="Digest of an approved study, or its start.")],
    out: Annotated[Path, typer.Option(help="Where to write the signed extract.")],
    home: Home = DEFAULT_HOME,
) -> results.FileWritten:
    """Sign an extract of the ledger for one study, for the auditor."""
    from flo.cli.screen import say
    from flo.cli.steward import approved_digest
    from flo.clients.extract import make_extract
    from flo.clients.home import SiteHome
    from flo.files import write_public

    opened = SiteHome.open(home)
    digest = approved_digest(opened, study)
    with closing(opened.ledger()) as ledger:
        write_public(out, make_extract(opened, ledger, digest))
    say(f"signed extract in {out}")
    return results.FileWritten(str(out))
