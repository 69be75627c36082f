"""``flo model deploy``: a published model where it answers in the hospital's own AWS account.

``flo model canary --on`` and ``flo model rollback --on`` ask here, too.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flo.cli import results
from flo.cli.terminal.command import command
from flo.cli.terminal.options import SITE_FOLDER, DryRun, SiteFolder

if TYPE_CHECKING:
    from flo.clients.cloud.door import Deployed, Door

app = typer.Typer()


class DoorKind(StrEnum):
    """Where a model answers in the cloud."""

    LAMBDA = "lambda"
    SAGEMAKER = "sagemaker"


On = Annotated[
    DoorKind | None, typer.Option("--on", help="At this door of the hospital's own AWS account.")
]


@command(app)
def deploy(
    name: Annotated[str, typer.Argument(help="Name of a model that is in use here.")],
    on: Annotated[DoorKind, typer.Option("--on", help="Door in the hospital's AWS account.")],
    why: Annotated[str, typer.Option(help="Reason, for the audit log. Name no patient.")],
    remove: Annotated[
        bool, typer.Option("--remove", help="Delete what answers there instead.")
    ] = False,
    home: SiteFolder = SITE_FOLDER,
    dry_run: DryRun = False,
) -> results.VersionStateResult:
    """Let the version in use answer at a door of the hospital's own AWS account."""
    from flo.cli.terminal.output import say, working
    from flo.clients.cloud import deployable, steps
    from flo.clients.home.site_home import SiteHome
    from flo.errors import UsageError

    site = SiteHome.open(home)
    if remove and dry_run:
        raise UsageError("--remove deletes at once: leave out --dry-run, or --remove")
    if remove:
        steps.remove(site, door_of(home, on, name), why)
        say(f"{name} answers on {on.value} no more")
        return results.VersionStateResult(name, 0, "", "removed")
    with working("computing the golden cases"):
        model = deployable.in_use(site, name)
    for note in model.notes:
        say(note)
    door = door_of(home, on, name)
    if dry_run:
        say(f"{model.title} would answer at {door.name}; {len(model.answers)} golden cases hold")
        say("nothing was deployed; to do so, repeat the command without --dry-run")
        return results.VersionStateResult(name, model.model.version, model.model.card, "planned")
    with working(f"deploying {model.title}"):
        found = steps.deploy(site, door, model, why)
    say(f"{model.title} answers at {door.name}: {len(model.answers)} golden cases hold there")
    say(f"back: flo model rollback {name} --on {on.value} --why REASON --home {home}")
    return results.VersionStateResult(name, found.version, found.card, "live")


@command(app)
def deployed(
    name: Annotated[str, typer.Argument(help="Name of a model.")],
    on: Annotated[DoorKind, typer.Option("--on", help="Door in the hospital's AWS account.")],
    home: SiteFolder = SITE_FOLDER,
) -> results.DeployedResult:
    """Show which versions of a model answer at a door of the hospital's own AWS account."""
    from flo.cli.terminal.output import say
    from flo.clients.cloud.deployable import is_withdrawn
    from flo.clients.home.site_home import SiteHome

    site, door = SiteHome.open(home), door_of(home, on, name)
    found = door.state()
    if found is None:
        say(f"nothing answers at {door.name}")
        return results.DeployedResult(door.name, 0, 0, 0, 0)
    say(f"version {found.live.version} answers {100 - found.share} % of requests at {door.name}")
    if found.canary is not None:
        say(f"version {found.canary.version} answers {found.share} %, as a canary")
    if found.before is not None:
        say(f"version {found.before.version} was live before: flo model rollback brings it back")
    for one in filter(None, (found.live, found.canary)):
        if is_withdrawn(site, name, one.study):
            say(
                f"version {one.version} is withdrawn, and answers still: flo model deploy {name} "
                f"--on {on.value} puts the version in use live; with --remove, none"
            )
    canary, before = found.canary, found.before
    return results.DeployedResult(
        door.name,
        found.live.version,
        canary.version if canary else 0,
        found.share,
        before.version if before else 0,
    )


def canary_at(home: Path, on: DoorKind, wanted: str, share: int, why: str) -> Deployed:
    """Let an approved version, NAME:VERSION, answer a share of requests at a door."""
    from flo.cli.terminal.output import say, working
    from flo.clients.cloud import deployable, steps
    from flo.clients.connection.enrolment import connect
    from flo.clients.home.site_home import SiteHome

    site = SiteHome.open(home)
    with working("fetching the model, and computing its golden cases"), connect(site) as api:
        model = deployable.approved(site, api, wanted)
    for note in model.notes:
        say(note)
    door = door_of(home, on, model.name)
    with working(f"deploying {model.title}"):
        found = steps.canary(site, door, model, share, why)
    say(f"{model.title} answers {share} % of requests at {door.name}")
    say(f"back: flo model rollback {model.name} --on {on.value} --why REASON --home {home}")
    return found


def roll_back_at(home: Path, on: DoorKind, name: str, why: str) -> Deployed:
    """End a canary at a door, or let the version before answer there."""
    from flo.cli.terminal.output import say
    from flo.clients.cloud import steps
    from flo.clients.home.site_home import SiteHome

    site, door = SiteHome.open(home), door_of(home, on, name)
    found = steps.roll_back(site, door, name, why)
    say(f"version {found.version} of {name} answers all requests at {door.name}")
    return found


def door_of(home: Path, on: DoorKind, name: str) -> Door:
    """Return a model's door. Raises RefusedError: the credentials are of another account."""
    from flo.infra.aws.clients import refuse_other_account
    from flo.infra.aws.serving.endpoint import EndpointDoor
    from flo.infra.aws.serving.function import FunctionDoor
    from flo.infra.aws.serving.settings import read_hospital_aws

    settings = read_hospital_aws(home, name)
    refuse_other_account(settings.account, settings.region)
    return (FunctionDoor if on is DoorKind.LAMBDA else EndpointDoor)(settings, name)
