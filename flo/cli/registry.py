"""``flo model register|packages|approve``: published models in SageMaker's registry."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flo.cli import model
from flo.cli.coordinator import DEFAULT_HOME, Home

Package = Annotated[str, typer.Argument(help="ARN of a model package.")]


@model.app.command()
def register(path: model.ModelFile, home: Home = DEFAULT_HOME) -> None:
    """Put a published model of this coordinator into its account's registry, to be approved."""
    from flo.cli.screen import say, working
    from flo.errors import UsageError
    from flo.infra.aws.registry import Registry
    from flo.server.home import CoordinatorHome

    opened = CoordinatorHome.open(home)
    config = opened.config.aws
    if config is None:
        raise UsageError(f"{opened.config_path} has no [aws] section", hint="flo aws deploy")
    with working("registering"):
        trusted = model.trusted_coordinators(home, None)
        arn = Registry(config.region).register(config, path, *trusted)
    say(f"{arn} waits for approval")
    say(f"next: flo model approve {arn} --why REASON")


@model.app.command()
def packages(
    study: Annotated[str, typer.Argument(help="Name of a study.")],
    region: Annotated[str, typer.Option(envvar="AWS_REGION", help="AWS region.")],
) -> None:
    """List a study's packages in the registry, the newest first."""
    from rich.table import Column, Table

    from flo.cli.screen import console, plain
    from flo.infra.aws.registry import Registry

    table = Table(Column("package", overflow="fold"), "approval", "ε", "run", "made")
    for found in Registry(region).packages(study):
        table.add_row(
            plain(found.arn), found.approval, plain(found.epsilon), plain(found.run), found.created
        )
    console().print(table)


@model.app.command()
def approve(
    package: Package,
    why: Annotated[str, typer.Option(help="Kept with the package.")],
    reject: Annotated[bool, typer.Option("--reject", help="Say no instead.")] = False,
) -> None:
    """Approve a package of the registry, or reject it; only an approved one is fetched."""
    from flo.cli.screen import say
    from flo.infra.aws.registry import Registry

    Registry.of(package).decide(package, "Rejected" if reject else "Approved", why)
    say(f"{package} is {'rejected' if reject else 'approved'}")


def fetch_package(arn: str, out: Path, trusted: list[str]) -> None:
    """Fetch an approved package, checked against these coordinators' fingerprints."""
    from flo.cli.screen import say, working
    from flo.infra.aws.registry import Registry

    with working("fetching"):
        card = Registry.of(arn).fetch(arn, out, *trusted)
    say(f"{card}: signed, and the tensors are the card's")
