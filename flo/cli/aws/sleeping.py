"""``flo aws sleep``, ``wake``, ``schedule``, ``cost``."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flo.cli.aws import results
from flo.cli.aws.stack import Name, RegionName, show_step
from flo.cli.terminal.command import command
from flo.cli.terminal.options import Yes

if TYPE_CHECKING:
    from flo.infra.aws.costs import JobAdvice, PriceTable, Use
    from flo.infra.aws.sleeping import Power
    from flo.infra.aws.stack import Stack

app = typer.Typer()
Days = Annotated[str, typer.Option(help="Days on which it wakes: mon-fri, or mon,wed.")]
From = Annotated[str, typer.Option("--from", help="When it wakes, as 08:00.")]
To = Annotated[str, typer.Option("--to", help="When it goes to sleep, as 18:00.")]


@command(app)
def sleep(region: RegionName, name: Name = "flo", yes: Yes = False) -> results.PowerResult:
    """Stop the coordinator's machine and remove its private endpoints; keep everything else."""
    from flo.cli.terminal.output import confirmed, say, working
    from flo.errors import RefusedError
    from flo.infra.aws import sleeping
    from flo.infra.aws.stack import Stack

    question = f"Put {name} to sleep? Hospitals' agents wait until it wakes; nothing is lost."
    if not confirmed(question, yes):
        raise RefusedError("nothing was changed", hint="--yes puts it to sleep without asking")
    began, stack = time.monotonic(), Stack(name, region)
    with working("putting it to sleep; this takes a few minutes"):
        sleeping.sleep(stack, show_step)
    result = _result(stack, began)
    say(f"{name} sleeps; the disk, buckets, keys and load balancer stay")
    say(f"next: flo aws wake --name {name} --region {region}")
    return result


@command(app)
def wake(region: RegionName, name: Name = "flo") -> results.PowerResult:
    """Start the coordinator's machine and make its private endpoints; wait until it answers."""
    from flo.cli.terminal.output import say, working
    from flo.infra.aws import sleeping
    from flo.infra.aws.stack import Stack

    began, stack = time.monotonic(), Stack(name, region)
    with working("waking; this takes a few minutes"):
        sleeping.wake(stack, show_step)
    result = _result(stack, began)
    say(f"{name} is awake and its coordinator answers, after {result.seconds:.0f} seconds")
    return result


@command(app)
def schedule(
    region: RegionName,
    name: Name = "flo",
    days: Days = "mon-fri",
    begin: From = "08:00",
    end: To = "18:00",
    zone: Annotated[str, typer.Option(help="Time zone, such as Europe/Berlin.")] = "",
    off: Annotated[bool, typer.Option("--off", help="Forget the calendar.")] = False,
) -> results.PowerResult:
    """Wake the coordinator and put it to sleep by a calendar, or forget the calendar."""
    from flo.cli.terminal.output import say
    from flo.errors import UsageError
    from flo.infra.aws import sleeping
    from flo.infra.aws.awake import Calendar
    from flo.infra.aws.stack import Stack

    if not off and not zone:
        raise UsageError(
            "a calendar needs the time zone of its hours",
            hint="--zone Europe/Berlin, or --zone UTC",
        )
    calendar = None if off else Calendar.parse(days, begin, end, zone)
    began, stack = time.monotonic(), Stack(name, region)
    sleeping.schedule(stack, calendar, show_step)
    result = _result(stack, began)
    if calendar is None:
        say(f"{name} has no calendar; it stays {'awake' if result.awake else 'asleep'}")
    else:
        say(f"{name} is awake {calendar}: {calendar.hours:.0f} hours a month")
        say(f"what that saves: flo aws cost --days {days} --from {begin} --to {end}")
    return result


@command(app)
def cost(
    hospitals: Annotated[int, typer.Option(min=2, max=128, help="Hospitals.")] = 4,
    studies: Annotated[int, typer.Option(min=0, max=1000, help="Studies in a month.")] = 4,
    rounds: Annotated[int, typer.Option(min=1, max=10_000, help="Rounds of a study.")] = 100,
    model_mb: Annotated[float, typer.Option(min=0, max=1024, help="MB of one model.")] = 1.0,
    round_seconds: Annotated[
        float, typer.Option(min=0.01, max=86_400, help="Of a round, as the console shows it.")
    ] = 3.0,
    days: Annotated[
        str, typer.Option(help="Days awake, as for schedule; awake all the time without.")
    ] = "",
    begin: From = "08:00",
    end: To = "18:00",
    machine: Annotated[str, typer.Option(help="Type of the machine.")] = "t3.medium",
    endpoint_zones: Annotated[int, typer.Option(min=1, max=2, help="Zones with endpoints.")] = 1,
    prices: Annotated[Path | None, typer.Option(help="A price table of your own (TOML).")] = None,
) -> results.CostResult:
    """Show a month's bill by item, beside that of a coordinator that never sleeps."""
    from flo.infra.aws.awake import Calendar
    from flo.infra.aws.costs import ALWAYS_ON, HOURS, PRICES, PriceTable, Setup, Use, bill
    from flo.infra.aws.costs import job_advice as advised

    table = PriceTable.read(prices or PRICES)
    use = Use(hospitals, studies, rounds, model_mb, round_seconds)
    job = advised(use, table)
    calendar = Calendar.parse(days, begin, end, "UTC") if days else None
    setup = Setup(
        machine,
        job.machine,
        endpoint_zones=endpoint_zones,
        hours=calendar.hours if calendar else HOURS,
        wakings=calendar.wakings if calendar else 0.0,
    )
    always = replace(ALWAYS_ON, job=job.machine)
    before, after = bill(use, always, table), bill(use, setup, table)
    awake = f"{calendar.hours:.0f} hours awake" if calendar else "never asleep"
    plural = "s" if endpoint_zones > 1 else ""
    show_bills(
        {"never asleep, 2 zones": before, f"{awake}, {endpoint_zones} zone{plural}": after},
        use,
        table,
    )
    show_job(job, sum(after.values()))
    return results.CostResult(
        *(table.currency, table.as_of, table.region, setup.hours, before, after),
        *(job.machine, job.spot, job.resumed_hours),
    )


def show_power(stack: Stack, state: Power) -> None:
    """Show whether a stack is awake, and its calendar."""
    from flo.cli.terminal.output import say

    if state.awake:
        answers = "answers" if state.answers else "does not answer"
        say(f"awake: its machine is {state.machine}, and the coordinator {answers}")
    else:
        say(f"asleep: its machine is {state.machine}")
        say(f"next: flo aws wake --name {stack.name} --region {stack.region}")
    say(f"calendar: awake {state.calendar}" if state.calendar else "calendar: none")


def show_bills(bills: dict[str, dict[str, float]], use: Use, prices: PriceTable) -> None:
    """Show bills side by side, and what they assume."""
    from rich.table import Table

    from flo.cli.terminal.output import console, say

    table = Table("a month, about", title=f"{use.hospitals} hospitals, {prices.currency}")
    for title in bills:
        table.add_column(title, justify="right")
    first, *_ = bills.values()
    for item in first:
        table.add_row(item, *(f"{one[item]:,.2f}" for one in bills.values()))
    sums = [sum(one.values()) for one in bills.values()]
    table.add_section()
    table.add_row("all", *(f"[bold]{one:,.2f}[/]" for one in sums))
    console().print(table)
    if len(sums) == 2:
        say(f"{sums[1] / sums[0]:.0%} of the first")
    say(
        f"{use.studies} studies of {use.rounds} rounds, models of {use.model_mb:g} MB; list prices "
        f"of {prices.region} as of {prices.as_of}, not read from AWS: --prices FILE has others"
    )


def show_job(job: JobAdvice, month: float) -> None:
    """Show which machine holds a job, and what spot machines would save."""
    from flo.cli.terminal.output import say

    saved = job.month - job.spot
    say(
        f"jobs: {job.machine} is the cheapest that holds the model. Spot machines would save "
        f"{saved:.2f} a month, {saved / max(month, 0.01):.1%} of the bill; an "
        f"interruption costs {job.resumed_hours * 60:.0f} minutes, and no round is lost"
    )


def _result(stack: Stack, began: float) -> results.PowerResult:
    from flo.infra.aws.sleeping import power

    state = power(stack)
    return results.PowerResult(
        stack.name,
        state.awake,
        state.machine,
        state.answers,
        str(state.calendar) if state.calendar else None,
        time.monotonic() - began,
    )
