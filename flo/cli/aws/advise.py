"""``flo aws advise``: what serving a model in AWS costs, and the cheapest way that keeps limits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flo.cli.aws import results
from flo.cli.terminal.command import command

if TYPE_CHECKING:
    from flo.infra.aws.costs import PriceTable
    from flo.infra.aws.scaling.advice import Advice, Limits
    from flo.infra.aws.scaling.trace import Trace
    from flo.infra.aws.scaling.ways import Machine

app = typer.Typer()


@command(app)
def advise(
    trace: Annotated[
        Path | None,
        typer.Argument(metavar="[TRACE]", help="CSV with columns time and requests."),
    ] = None,
    zone: Annotated[
        str, typer.Option(help="Time zone of its times and weeks, such as Europe/Berlin.")
    ] = "",
    home: Annotated[
        Path | None, typer.Option(help="Folder of a site: take what --model answered there.")
    ] = None,
    model: Annotated[str, typer.Option(help="Name of the model.")] = "MODEL",
    peak: Annotated[
        float | None,
        typer.Option(min=0.001, max=1e7, help="Requests a second of the busiest minute."),
    ] = None,
    p99_ms: Annotated[
        float, typer.Option(min=1, max=60_000, help="Longest 99th percentile.")
    ] = 200,
    unserved: Annotated[
        float, typer.Option(min=0.00001, max=0.5, help="Largest share of refused requests.")
    ] = 0.001,
    machine: Annotated[str, typer.Option(help="Type of the endpoint's machines.")] = "ml.m5.large",
    machine_ms: Annotated[
        float, typer.Option(min=0.01, max=10_000, help="Milliseconds of an answer on a machine.")
    ] = 1.0,
    function_ms: Annotated[
        float, typer.Option(min=0.1, max=60_000, help="Milliseconds of an answer of the function.")
    ] = 5.0,
    cold_ms: Annotated[
        float, typer.Option(min=1, max=60_000, help="The same after it was idle.")
    ] = 500.0,
    memory_mb: Annotated[int, typer.Option(min=128, max=10_240, help="Of the function.")] = 1024,
    prices: Annotated[Path | None, typer.Option(help="A price table of your own (TOML).")] = None,
) -> results.AdviceResult:
    """Find the cheapest way to serve a model's requests in AWS, and its settings."""
    from flo.cli.terminal.output import working
    from flo.errors import UsageError
    from flo.infra.aws.costs import PRICES, PriceTable, function_price, price_of
    from flo.infra.aws.scaling import settings as written
    from flo.infra.aws.scaling.advice import Limits
    from flo.infra.aws.scaling.advice import advise as advice_of
    from flo.infra.aws.scaling.ways import Function, Machine

    table = PriceTable.read(prices or PRICES)
    price = price_of(table.endpoint_hour, machine, "endpoint_hour")
    limits = Limits(unserved, p99_ms / 1000)
    machines = Machine.within(machine, price, machine_ms / 1000, limits.p99)
    if machines.requests <= 0:
        raise UsageError(
            f"no machine answers within {p99_ms:g} ms: an answer alone takes {machine_ms:g} ms, "
            f"and one in a hundred waits {4.6 * machine_ms:.0f} ms on an idle machine",
            hint="raise --p99-ms",
        )
    function = Function(
        function_price(table, function_ms, memory_mb), function_ms / 1000, cold_ms / 1000
    )
    asked = _trace(trace, zone, home, model)
    if peak is not None:
        asked = asked.with_peak(peak)
    with working("trying ways to serve") as status:
        found = advice_of(asked, machines, function, limits, lambda way: status.update(way))
    scaling = written.scaling(found.chosen, found.profile, machines, zone)
    served = found.chosen.most > 0
    toml = written.toml(found.chosen, scaling, machines) if served else ""
    cron = written.crontab(found.chosen, found.profile, zone, model, str(home or "SITE"))
    _show(asked, found, table, machines)
    _show_settings(found, limits, toml, cron, model)
    rows = [
        results.WayRow(name, one.cost, one.unserved, one.spilled, one.p99, one.machine_hours)
        for name, (_, one) in found.rows.items()
    ]
    facts = table.currency, table.as_of, table.region, float(asked.rates.max()), rows
    return results.AdviceResult(*facts, found.chosen.name, found.oracle, toml, cron)


def _trace(path: Path | None, zone: str, home: Path | None, model: str) -> Trace:
    """Return the trace of a file, or of a site's log of answers."""
    from flo.clients.home.site_home import SiteHome
    from flo.clients.serving import answer_log
    from flo.documents.time_zones import refuse_unknown_zone
    from flo.errors import UsageError
    from flo.infra.aws.scaling.trace import of_counts, read_trace

    if not zone:
        raise UsageError(
            "weeks and hours of a forecast need a time zone", hint="--zone Europe/Berlin"
        )
    refuse_unknown_zone(zone)
    if (path is None) == (home is None):
        raise UsageError("give either a trace file or --home, the folder of a site")
    if path is not None:
        return read_trace(path, zone)
    assert home is not None
    site = SiteHome.open(home)
    counts = answer_log.minutes(home, site.open_identity(), model)
    return of_counts(counts, zone, f"the log of answers of {model} in {home}")


def _show(asked: Trace, found: Advice, prices: PriceTable, machine: Machine) -> None:
    from rich.table import Table

    from flo.cli.terminal.output import console, say
    from flo.documents.text import in_digits
    from flo.infra.aws.scaling.trace import WEEK

    weeks = len(asked.rates) / 60 / WEEK
    mean, peak = (in_digits(one, 3) for one in (asked.hourly.mean(), asked.rates.max()))
    say(
        f"{weeks:.0f} weeks, counted every {asked.step} minutes: {mean} requests a second on "
        f"average, {peak} in the busiest minute, none in {asked.empty:.0%} of the hours"
    )
    caption = "judged on the later half, which chose nothing; p99 without the network"
    table = Table("way", title=f"{prices.currency} a month, about", caption=caption)
    for name in ("cost", "unserved", "by function", "p99 ms", "machines"):
        table.add_column(name, justify="right")
    for name, (_, one) in found.rows.items():
        table.add_row(
            f"[bold]{name}[/]" if name == found.chosen.name else name,
            f"{one.cost:,.2f}",
            f"{one.unserved:.3%}",
            f"{one.spilled:.0%}",
            f"{1000 * one.p99:.0f}",
            f"{one.machine_hours / 730:,.1f}",
        )
    table.add_section()
    table.add_row("if all were known", f"{found.oracle:,.2f}")
    console().print(table)
    say(
        f"a {machine.kind} answers {machine.requests:,.0f} requests a second within the limit; "
        f"list prices of {prices.region} as of {prices.as_of}, not read from AWS: --prices has "
        "others"
    )


def _show_settings(found: Advice, limits: Limits, toml: str, cron: str, model: str) -> None:
    from flo.cli.terminal.output import plain, say, verbatim

    say(f"advised: {found.chosen.name}")
    if found.outcome.p99 > limits.p99 * (1 + 1e-9):
        say(
            f"warning: in the later half its p99 was {1000 * found.outcome.p99:.0f} ms, more than "
            f"{1000 * limits.p99:.0f}"
        )
    if found.outcome.unserved > limits.unserved:
        say(
            f"warning: in the later half it left {found.outcome.unserved:.2%} of the requests "
            f"unserved, more than {limits.unserved:.2%}: they grow, or come in bursts"
        )
    if not toml:
        say(f"next: flo model deploy {model} --on lambda --why REASON --home SITE")
        return
    say(plain(f"in aws/{model}.toml of the site's folder, under [endpoint]:"))
    verbatim(toml)
    if cron:
        say("at these times, by whoever may deploy without a second factor (docs/cloud-doors.md):")
        verbatim(cron)
    else:
        say(f"next: flo model deploy {model} --on sagemaker --why REASON --home SITE")
    if found.chosen.spills:
        say(f"the function answers, too: flo model deploy {model} --on lambda; the record system")
        say("asks it whenever the endpoint answers 503 or is not there (docs/cloud-doors.md)")
