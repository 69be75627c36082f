"""``flo model register|packages|approve``: published models, and SageMaker's registry of them."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from flo.cli import results
from flo.cli.model import ModelFile, trusted_coordinators
from flo.cli.model_versions import decided
from flo.cli.terminal.command import command
from flo.cli.terminal.options import COORDINATOR_FOLDER, CoordinatorFolder, DryRun

app = typer.Typer()


@command(app)
def register(
    path: ModelFile, home: CoordinatorFolder = COORDINATOR_FOLDER, dry_run: DryRun = False
) -> results.PackageStateResult:
    """Register a published model of this coordinator in its account's registry, for approval."""
    from flo.cli.terminal.output import say, working
    from flo.errors import UsageError
    from flo.infra.aws.registry import Registry
    from flo.published.model_card import PublishedModel
    from flo.server.home.coordinator_home import CoordinatorHome

    opened = CoordinatorHome.open(home)
    config = opened.read_config().aws
    if config is None:
        raise UsageError(f"{opened.config_path} has no [aws] section", hint="flo aws deploy")
    trusted = trusted_coordinators(home, None)
    if dry_run:
        card = PublishedModel.open(path, *trusted).card
        say(f"run {card.run} would be registered in {config.region}, pending approval")
        say("nothing was registered; to do so, repeat the command without --dry-run")
        return results.PackageStateResult(str(path), "planned")
    with working("registering"):
        arn = Registry(config.region).register(config, path, *trusted)
    say(f"{arn} waits for approval")
    say(f"next: flo model approve {arn} --why REASON")
    return results.PackageStateResult(arn, "PendingManualApproval")


@command(app)
def packages(
    study: Annotated[str, typer.Argument(help="Name of a study.")],
    region: Annotated[str, typer.Option(envvar="AWS_REGION", help="AWS region.")],
) -> results.PackagesResult:
    """List a study's packages in the registry, the newest first."""
    from rich.table import Column, Table

    from flo.cli.terminal.output import console, plain
    from flo.infra.aws.registry import Registry

    table = Table(Column("package", overflow="fold"), "approval", "ε", "run", "made")
    lines = []
    for found in Registry(region).packages(study):
        facts = (found.arn, found.approval, found.epsilon, found.run, str(found.created))
        lines.append(results.PackageLine(*facts))
        table.add_row(*map(plain, facts))
    console().print(table)
    return results.PackagesResult(lines)


@command(app)
def approve(
    version: Annotated[str, typer.Argument(help="NAME:VERSION, or the ARN of a model package.")],
    why: Annotated[str, typer.Option(help="Reason, which is kept. Name no patient.")],
    home: CoordinatorFolder = COORDINATOR_FOLDER,
    reject: Annotated[bool, typer.Option("--reject", help="Reject a package instead.")] = False,
    dry_run: DryRun = False,
) -> results.PackageStateResult:
    """Approve a published version, or a package of the registry; reject a package."""
    from flo.cli.terminal.output import say
    from flo.errors import UsageError

    if not version.startswith("arn:"):
        if reject or dry_run:
            raise UsageError(
                "--reject and --dry-run are for packages of the registry",
                hint="flo model withdraw takes a version out of use",
            )
        found = decided(home, version, "approve", why)
        say(f"next: flo model promote {found.name}:{found.version} makes it current")
        return results.PackageStateResult(f"{found.name}:{found.version}", found.state)
    from flo.infra.aws.registry import Registry

    package = version
    decision: Literal["Approved", "Rejected"] = "Rejected" if reject else "Approved"
    registry = Registry.of(package)
    if dry_run:
        now = registry.approval_of(package)
        say(f"{package} is {now}; it would be {decision}; nothing was changed")
        return results.PackageStateResult(package, now)
    registry.decide(package, decision, why)
    say(f"{package} is {decision.lower()}")
    return results.PackageStateResult(package, decision)
