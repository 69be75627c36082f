"""``flo aws plan``, ``deploy``, ``status``, ``destroy``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flo.cli.aws import results
from flo.cli.terminal.command import command
from flo.cli.terminal.options import DryRun, Yes

if TYPE_CHECKING:
    from flo.infra.aws.stack import StackEvent

app = typer.Typer()
Name = Annotated[str, typer.Option(help="Name of the stack.")]
RegionName = Annotated[str, typer.Option(envvar="AWS_REGION", help="AWS region.")]
Networks = Annotated[
    str, typer.Option(help="Managed prefix list (pl-...) of the networks hospitals dial from.")
]
Image = Annotated[
    str, typer.Option(help="Machine image (ami-...) of the coordinator, with FLO in it.")
]
Address = Annotated[str, typer.Option(help="E-mail address that receives alarms.")]
Machine = Annotated[
    str | None, typer.Option(help="Type of the coordinator's machine; else as it is, or t3.medium.")
]
Zones = Annotated[
    int | None,
    typer.Option(min=1, max=2, help="Zones with private endpoints; else as they are, or 1."),
]


@command(app)
def plan(
    networks: Networks,
    alarms: Address,
    image: Image,
    region: RegionName,
    name: Name = "flo",
    machine: Machine = None,
    endpoint_zones: Zones = None,
    hospitals: Annotated[int, typer.Option(min=2, max=128, help="To estimate the cost.")] = 4,
) -> results.StackPlannedResult:
    """Show the changes that a deployment would make, and their cost, without making them."""
    from dataclasses import asdict

    from rich.table import Table

    from flo.cli.terminal.output import console, say, working
    from flo.infra.aws.stack import Stack

    with working("asking AWS what would change"):
        stack = Stack(name, region)
        changes = stack.plan(_parameters(region, networks, alarms, image, machine, endpoint_zones))
    table = Table("action", "what", "kind", "")
    for change in changes:
        replaced = "[bold red]replaces the existing one[/]" if change.replaced else ""
        table.add_row(change.action, change.name, change.type, replaced)
    console().print(table)
    say(f"{len(changes)} changes; nothing was changed")
    dollars = _show_costs(hospitals, machine, endpoint_zones)
    say(f"next: flo aws deploy with the same options makes them in {region}")
    return results.StackPlannedResult([asdict(change) for change in changes], dollars)


@command(app)
def deploy(
    networks: Networks,
    alarms: Address,
    image: Image,
    region: RegionName,
    name: Name = "flo",
    machine: Machine = None,
    endpoint_zones: Zones = None,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> results.StackStateResult:
    """Create or update the stack, then print its settings for coordinator.toml."""
    from flo.cli.terminal.output import confirmed, say
    from flo.errors import RefusedError
    from flo.infra.aws.stack import Stack

    if dry_run:
        stack = Stack(name, region)
        changes = stack.plan(_parameters(region, networks, alarms, image, machine, endpoint_zones))
        for change in changes:
            say(f"{change.action} {change.name} ({change.type})")
        say(f"{len(changes)} changes; nothing was changed. `flo aws plan` has the costs")
        return results.StackStateResult(name, stack.status() or "gone", {})
    if not confirmed(f"Create or update stack {name} in {region}? It costs money.", yes):
        raise RefusedError("nothing was changed", hint="`flo aws plan` shows the changes and costs")
    stack = Stack(name, region)
    asked = _parameters(region, networks, alarms, image, machine, endpoint_zones)
    stack.deploy(asked, show_step)
    state, outputs = stack.status() or "gone", stack.outputs()
    say(f"{name} is {state}")
    _show_settings(outputs)
    return results.StackStateResult(name, state, outputs)


@command(app)
def status(region: RegionName, name: Name = "flo") -> results.StackStateResult:
    """Show the status of the stack, whether it is awake, and its settings for coordinator.toml."""
    from flo.cli.aws.sleeping import show_power
    from flo.cli.terminal.output import say
    from flo.errors import UsageError
    from flo.infra.aws.sleeping import power
    from flo.infra.aws.stack import Stack

    stack = Stack(name, region)
    found = stack.status()
    if found is None:
        raise UsageError(f"no stack {name} in {region}", hint="create it: flo aws deploy")
    say(f"{name} is {found}")
    outputs = stack.outputs()
    if outputs:
        _show_settings(outputs)
    if "Targets" not in outputs:  # it is being made, or an earlier FLO made it
        return results.StackStateResult(name, found, outputs)
    state = power(stack)
    show_power(stack, state)
    calendar = str(state.calendar) if state.calendar else None
    return results.StackStateResult(name, found, outputs, state.awake, state.answers, calendar)


@command(app)
def destroy(
    region: RegionName, name: Name = "flo", yes: Yes = False, dry_run: DryRun = False
) -> results.StackStateResult:
    """Delete the stack; keep buckets, keys, logs, images and the machine's disk."""
    from flo.cli.terminal.output import confirmed, say
    from flo.errors import RefusedError
    from flo.infra.aws.stack import Stack

    if dry_run:
        found = Stack(name, region).status() or "gone"
        say(f"{name} is {found}; it would be deleted; nothing was changed")
        return results.StackStateResult(name, found, {})
    if not confirmed(f"Delete stack {name} in {region}? Hospitals lose their coordinator.", yes):
        raise RefusedError("nothing was changed", hint="--yes deletes it without asking")
    Stack(name, region).destroy(show_step)
    say(f"{name} is deleted; buckets, keys, logs, images and the disk remain and cost money")
    return results.StackStateResult(name, "gone", {})


def _parameters(
    region: str, networks: str, alarms: str, image: str, machine: str | None, zones: int | None
) -> dict[str, str]:
    """Return the template's parameters, with AWS's prefix list of S3 in this region."""
    from flo.errors import UsageError
    from flo.infra.aws.clients import client, translate_errors

    with translate_errors("looking for S3's networks"):
        found = client("ec2", region).describe_managed_prefix_lists(
            Filters=[{"Name": "prefix-list-name", "Values": [f"com.amazonaws.{region}.s3"]}]
        )["PrefixLists"]
    own = [item for item in found if item["PrefixListName"] == f"com.amazonaws.{region}.s3"]
    if not own:
        raise UsageError(f"AWS has no prefix list of S3 in {region}", hint="check --region")
    chosen = {"CoordinatorInstanceType": machine, "EndpointZones": zones}
    return {
        "HospitalNetworks": networks,
        "S3PrefixList": own[0]["PrefixListId"],
        "AlarmAddress": alarms,
        "CoordinatorImage": image,
        **{name: str(value) for name, value in chosen.items() if value is not None},
    }


def show_step(event: StackEvent) -> None:
    """Show one step of a deployment."""
    from flo.cli.terminal.output import plain, say

    why = f": {event.why}" if event.why else ""
    say(plain(f"{event.status.lower().replace('_', ' ')}  {event.name}{why}"))


def _show_settings(outputs: dict[str, str]) -> None:
    import tomli_w

    from flo.cli.terminal.output import console, plain
    from flo.infra.aws.stack import settings

    image = f"{outputs['Repository']}@sha256:..."
    text = tomli_w.dumps({"aws": {**settings(outputs), "image": image}})
    console().print(f"\nhospitals dial {outputs['Address']}; add to coordinator.toml:\n")
    console().print(plain(text), soft_wrap=True)
    console().print(
        f"create its folder: flo coordinator init --keystore {outputs['FolderKeyArn']} "
        f"--signing-key {outputs['SigningKeyArn']}",
        soft_wrap=True,
    )


def _show_costs(hospitals: int, machine: str | None, zones: int | None) -> dict[str, float]:
    from flo.cli.aws.sleeping import show_bills
    from flo.infra.aws.costs import PriceTable, Setup, Use, bill

    use, prices = Use(hospitals), PriceTable.read()
    setup = Setup(machine or Setup.machine, endpoint_zones=zones or Setup.endpoint_zones)
    found = bill(use, setup, prices)
    show_bills({"awake all the time": found}, use, prices)
    return found
