"""``flo coordinator ...``: set up and run a coordinator; admit hospitals and people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flo.cli.coordinator import results
from flo.cli.terminal.command import command
from flo.cli.terminal.options import (
    COORDINATOR_FOLDER,
    CoordinatorFolder,
    KeyStoreKind,
    KeyStorePath,
    Quiet,
    ServiceUser,
    Verbose,
    Yes,
)
from flo.cli.terminal.results import UnitResult

app = typer.Typer()


@command(app)
def init(
    home: CoordinatorFolder = COORDINATOR_FOLDER,
    host: Annotated[
        str, typer.Option(envvar="FLO_HOST", help="Name or address that hospitals dial.")
    ] = "127.0.0.1",
    bind: Annotated[str, typer.Option(help="Address to listen on for hospitals.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(envvar="FLO_PORT", help="Port for hospitals.")] = 9443,
    private_port: Annotated[
        int, typer.Option(envvar="FLO_PRIVATE_PORT", help="Port for operators and jobs.")
    ] = 9444,
    private_host: Annotated[
        str, typer.Option(help="Address that operators and jobs reach; never a public one.")
    ] = "127.0.0.1",
    ca_certificate: Annotated[
        Path | None, typer.Option(help="Certificate (PEM) of your own CA, root or intermediate.")
    ] = None,
    ca_key: Annotated[Path | None, typer.Option(help="Private key (PEM) of your own CA.")] = None,
    keystore: KeyStoreKind = "file",
    keystore_path: KeyStorePath = None,
    signing_key: Annotated[
        str | None, typer.Option(help="ARN of the KMS key that is this coordinator's identity.")
    ] = None,
) -> results.CoordinatorMadeResult:
    """Create the coordinator's keys, certificate authority and configuration."""
    from flo.cli.terminal.output import keystore_document, say
    from flo.documents.document import parse
    from flo.errors import UsageError
    from flo.keys.identity import format_fingerprint
    from flo.server.home.coordinator_home import CoordinatorConfig, CoordinatorHome

    config = parse(
        CoordinatorConfig,
        {
            "host": host,
            "bind": bind,
            "port": port,
            "private_port": private_port,
            "private_host": private_host,
            "keystore": keystore_document(keystore, keystore_path),
            "signing_key": signing_key,
        },
        "coordinator configuration",
    )
    if (ca_certificate is None) != (ca_key is None):
        raise UsageError("--ca-certificate and --ca-key are needed together: give both or neither")
    brought = (
        (ca_certificate.read_bytes(), ca_key.read_bytes()) if ca_certificate and ca_key else None
    )
    made = CoordinatorHome.create(home, config, brought)
    say(f"created a coordinator in {home}")
    own = made.open_identity().fingerprint
    say(f"fingerprint, to read out to hospitals: {format_fingerprint(own)}")
    say(f"next: flo coordinator serve --home {home}")
    return results.CoordinatorMadeResult(str(home), own)


@app.command()
def serve(
    home: CoordinatorFolder = COORDINATOR_FOLDER, verbose: Verbose = 0, quiet: Quiet = False
) -> None:
    """Serve hospitals and operators until stopped; continue runs that were under way."""
    from flo.host.logs import start_logging
    from flo.server.coordinator import serve as serve_until_stopped
    from flo.server.home.coordinator_home import CoordinatorHome

    opened = CoordinatorHome.open(home)
    start_logging(home / "log" / "coordinator.jsonl", verbosity=-1 if quiet else verbose)
    aws = opened.read_config().aws
    if aws is None:
        serve_until_stopped(opened)
        return
    from flo.infra.aws.registry import Registry
    from flo.infra.aws.sagemaker import SageMakerJobs, audit_store

    serve_until_stopped(opened, SageMakerJobs(aws), audit_store(aws), Registry(aws.region))


@command(app)
def invite(
    hospital: Annotated[str, typer.Argument(help="Id of the hospital, such as cleveland.")],
    out: Annotated[Path | None, typer.Option(help="Where to write the invitation.")] = None,
    home: CoordinatorFolder = COORDINATOR_FOLDER,
) -> results.InvitedResult:
    """Write a one-time invitation for a hospital; protect it like a password."""
    from contextlib import closing

    from pydantic import TypeAdapter, ValidationError

    from flo.cli.terminal.output import say
    from flo.errors import UsageError
    from flo.server.home.coordinator_home import CoordinatorHome
    from flo.server.keys.authority import BOOTSTRAP_DAYS
    from flo.server.maintenance.invitations import invite as make_invitation
    from flo.storage.files import write_private
    from flo.study.terms import Identifier

    try:
        TypeAdapter(Identifier).validate_python(hospital)
    except ValidationError as error:
        raise UsageError(
            f"{hospital!r} is not a hospital id",
            hint="lower-case letters without accents (koeln, not Köln), digits and hyphens",
        ) from error
    opened, path = CoordinatorHome.open(home), out or Path(f"{hospital}.invitation.json")
    with closing(opened.open_store()) as store:
        member = store.member(hospital)
    write_private(path, make_invitation(opened, hospital))
    say(f"{path} is valid for one enrolment, within {BOOTSTRAP_DAYS} days")
    replaces = member is not None and not member.revoked
    if replaces:
        say(
            f"[yellow]{hospital} is already enrolled:[/] the site that uses this invitation "
            f"replaces it; flo coordinator revoke {hospital} revokes both"
        )
    return results.InvitedResult(hospital, str(path), BOOTSTRAP_DAYS, replaces)


@command(app)
def revoke(
    hospital: Annotated[str, typer.Argument(help="Id of the hospital.")],
    home: CoordinatorFolder = COORDINATOR_FOLDER,
) -> results.RevokedResult:
    """Refuse a hospital from its next request on; its data and ledger stay with it."""
    from flo.cli.terminal.output import say
    from flo.errors import UsageError
    from flo.server.home.coordinator_home import CoordinatorHome

    with CoordinatorHome.open(home).recording() as store:
        if store.member(hospital) is None:
            raise UsageError(f"hospital {hospital!r} is not enrolled here")
        store.add_event(None, "revoked", hospital=hospital)
        store.revoke(hospital)
    say(f"{hospital} is refused from its next request on")
    return results.RevokedResult(hospital)


@command(app)
def hospitals(home: CoordinatorFolder = COORDINATOR_FOLDER) -> results.HospitalsResult:
    """List enrolled hospitals with their fingerprints, and the coordinator's own."""
    from rich.table import Table

    from flo.cli.terminal.output import console, say
    from flo.keys.identity import format_fingerprint
    from flo.server.home.coordinator_home import CoordinatorHome

    opened = CoordinatorHome.open(home)
    found, own = [], opened.open_identity().fingerprint
    store = opened.open_store()
    table = Table("hospital", "fingerprint", "status")
    for member in store.members():
        status = "revoked" if member.revoked else "enrolled"
        table.add_row(member.id, format_fingerprint(member.fingerprint), status)
        found.append(results.HospitalLine(member.id, member.fingerprint, member.revoked))
    roster = store.roster().roster.digest
    store.close()
    console().print(table)
    say(f"digest of the roster, to read out on a call: {format_fingerprint(roster)}")
    say(f"the coordinator's own fingerprint, to read out: {format_fingerprint(own)}")
    return results.HospitalsResult(own, roster, found)


@command(app)
def token(
    name: Annotated[str, typer.Argument(help="The person's name, as the audit log shows it.")],
    role: Annotated[str, typer.Option(help="operator, viewer or auditor.")] = "viewer",
    hours: Annotated[float, typer.Option(help="How long it is valid, at most 24.")] = 8,
    out: Annotated[Path | None, typer.Option(help="Where to write the access file.")] = None,
    home: CoordinatorFolder = COORDINATOR_FOLDER,
) -> results.TokenWrittenResult:
    """Write an access file with a signed, short-lived token; use it as --home of other commands."""
    from typing import get_args

    from flo.cli.coordinator.operator import Access, issue_recorded
    from flo.cli.terminal.output import say
    from flo.errors import UsageError
    from flo.server.home.coordinator_home import CoordinatorHome
    from flo.server.http.roles import ALLOWED
    from flo.server.http.tokens import PersonRole
    from flo.storage.files import write_private

    opened = CoordinatorHome.open(home)
    if role not in get_args(PersonRole):
        raise UsageError(f"role {role!r} is not one of {', '.join(get_args(PersonRole))}")
    if not 0 < hours <= 24:
        raise UsageError(f"--hours {hours:g} is not above 0 and at most 24")
    path = out or Path(f"{role}.access.json")
    if not path.parent.is_dir():
        raise UsageError(f"--out: the folder {path.parent} does not exist")
    text, _ = issue_recorded(opened, name, role, round(hours * 3600))  # type: ignore[arg-type]
    aws = opened.read_config().aws
    access = Access(
        url=opened.read_private_url(),
        ca=opened.ca_path.read_text(),
        token=text,
        stack=aws.place if aws else None,
    )
    write_private(path, access.to_bytes())
    may = [action for (who, action), yes in ALLOWED.items() if who == role and yes]
    say(f"{path}: {name} may {', '.join(may)}")
    say(f"valid for {hours:g} hours; protect it like a password: flo study list --home {path}")
    return results.TokenWrittenResult(str(path), name, role, hours, may)


@command(app)
def rewrap(
    keystore: KeyStoreKind,
    keystore_path: KeyStorePath = None,
    home: CoordinatorFolder = COORDINATOR_FOLDER,
) -> results.RewrappedResult:
    """Move this coordinator's secrets to another key store, or another key in KMS."""
    from flo.cli.terminal.output import keystore_document, say, working
    from flo.documents.document import parse
    from flo.keys.keystore import KeyStoreConfig
    from flo.server.home.coordinator_home import CoordinatorHome
    from flo.server.maintenance.rewrap import rewrap as move

    config = parse(KeyStoreConfig, keystore_document(keystore, keystore_path), "--keystore")
    with working("sealing again"):
        count = move(CoordinatorHome.open(home), config)
    say(f"{count} secrets were sealed again; the previous key store no longer opens them")
    say("keep the previous key store as long as you keep backups that were made with it")
    return results.RewrappedResult(count)


@command(app, "replace-key")
def replace_key(
    home: CoordinatorFolder = COORDINATOR_FOLDER, yes: Yes = False
) -> results.KeyReplacedResult:
    """Create a new identity key, signed by the old one; every steward must compare it again."""
    from flo.cli.terminal.output import confirmed, say
    from flo.errors import RefusedError
    from flo.keys.identity import fingerprint, format_fingerprint
    from flo.server.home.coordinator_home import CoordinatorHome
    from flo.server.maintenance.key_rotation import replace_key as replace

    opened = CoordinatorHome.open(home)
    if not confirmed("Replace the coordinator's identity key? All tokens become invalid.", yes):
        raise RefusedError("nothing was changed", hint="--yes replaces it without asking")
    step = replace(opened)
    made = fingerprint(bytes.fromhex(step.new))
    say(f"new fingerprint, to read out: {format_fingerprint(made)}")
    say("hospitals accept it with: flo site coordinator --accept FINGERPRINT")
    say("earlier invitations and tokens are no longer valid; issue new ones")
    return results.KeyReplacedResult(made)


@command(app, "unit")
def coordinator_unit(
    home: CoordinatorFolder = COORDINATOR_FOLDER, user: ServiceUser = "flo"
) -> UnitResult:
    """Print a systemd unit for this coordinator, sandboxed as far as possible."""
    from flo.cli.terminal.output import verbatim
    from flo.infra.systemd.units import unit
    from flo.server.home.coordinator_home import CoordinatorHome

    CoordinatorHome.open(home)
    return UnitResult(verbatim(unit("coordinator", home, user)))
