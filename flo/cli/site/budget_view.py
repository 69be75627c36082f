"""Screen of ``flo site budget``: bars, a curve over time, studies, and what still fits.

With generations of patients: a row per generation, and which of them still fit into a study.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from flo.privacy.ledger.ledger import Ledger
    from flo.privacy.report.budget_view import GenerationUse, Moment, Room

_BAR, _SHORT_BAR, _CURVE, _LEVELS = 40, 20, 60, " ▁▂▃▄▅▆▇█"
_OF_A_STUDY = ("study", "approved", "settled", "spent", "reserved")  # fields in the JSON


def show(ledger: Ledger) -> list[dict[str, Any]]:
    """Draw every population's life budget; return the same numbers for ``--json``."""
    from flo.cli.terminal.output import console, say
    from flo.privacy.accounting.life_budget import SUB_LEDGERS
    from flo.privacy.report import budget_view

    rows, balance, out = list(ledger.rows()), ledger.balance(), console()
    documents = []
    for name, life in balance.lives.items():
        say(f"[bold]population {name}[/]: life ε = {life.epsilon:g} at δ = {life.delta:g}")
        sizes = ledger.generation_sizes(name)
        generations = budget_view.by_generation(rows, balance, name, sizes)
        rooms = budget_view.rooms(balance, name, sizes)
        moments = budget_view.over_time(rows, name, _CURVE)
        fits = {
            sub_ledger: budget_view.affordable(life, balance.remaining(name, sub_ledger))
            for sub_ledger in SUB_LEDGERS
        }
        uses = budget_view.by_study(rows, balance, name)
        documents.append(_document(name, moments[-1], fits, life.epsilon, life.delta, uses))
        documents[-1]["generations"] = [asdict(one) for one in generations]
        documents[-1]["rooms"] = [asdict(one) for one in rooms]
        if any(one.number for one in generations):
            say("each patient has this budget once, in the generation of the study that saw them")
            say("first; new patients get a new generation")
            out.print(_generations(generations))
            out.print(_studies(uses))
            for one in rooms:
                say(_room(one, len(generations)))
            continue
        for sub_ledger in SUB_LEDGERS:
            say(_bar(sub_ledger, moments[-1]))
        say(_curve(moments))
        out.print(_studies(uses))
        if any(fit.largest_epsilon for fit in fits.values()):
            say("a study with half the ε uses about a quarter of the budget; what is free allows:")
        for sub_ledger, fit in fits.items():
            several = ", ".join(f"{n} of ε = {e:g}" for e, n in fit.studies.items() if n)
            say(
                f"still affordable in {sub_ledger}: one study of ε up to {fit.largest_epsilon:.3f}"
                + (f", or {several}" if several else "")
                if fit.largest_epsilon
                else f"still affordable in {sub_ledger}: no study, this budget is spent permanently"
            )
        say("patients who were not seen before get the whole budget (studies of schema 4)")
    return documents


def _generations(uses: list[GenerationUse]) -> Table:
    """Draw a row per generation, and one for the patients who will come."""
    from rich.table import Table

    from flo.cli.terminal.output import plain
    from flo.privacy.accounting.life_budget import SUB_LEDGERS
    from flo.privacy.report.budget_view import NEW

    table = Table("generation", "patients", *SUB_LEDGERS, box=None)
    for one in uses:
        drawn = [_drawn(one.spent[s], one.committed[s], _SHORT_BAR) for s in SUB_LEDGERS]
        table.add_row(plain(one.opened), one.patients, *drawn)
    table.add_row(NEW, "", *(_drawn(0, 0, _SHORT_BAR) for _ in SUB_LEDGERS))
    return table


def _room(room: Room, generations: int) -> str:
    study = f"a study of ε = {room.epsilon:g}"
    if not room.generations:
        return f"{study}: patients not seen before only"
    return (
        f"{study}: {room.generations} of {generations} generations, {room.patients} patients seen "
        "before, and all new ones"
    )


def _drawn(spent: float, committed: float, width: int) -> str:
    filled = round(width * min(1.0, spent))
    held = max(0, round(width * min(1.0, committed)) - filled)
    return "█" * filled + "▒" * held + "░" * (width - filled - held) + f" {committed:.1%}"


def _bar(sub_ledger: str, now: Moment) -> str:
    spent, committed = now.spent[sub_ledger], now.committed[sub_ledger]
    drawn, _, _ = _drawn(spent, committed, _BAR).rpartition(" ")
    return (
        f"  {sub_ledger:<11}{drawn} spent {spent:.1%}, reserved {committed - spent:.1%}, "
        f"free {max(0.0, 1 - committed):.1%}"
    )


def _curve(moments: list[Moment]) -> str:
    """Draw the share committed in training over the ledger's life, one column per moment."""
    top = len(_LEVELS) - 1
    drawn = "".join(
        _LEVELS[min(top, round(top * min(1.0, moment.committed["training"])))] for moment in moments
    )
    first, last = moments[0].time[:16], moments[-1].time[:16]
    return f"  over time  {first} [dim]│[/]{drawn}[dim]│[/] {last} (training, spent or reserved)"


def _studies(uses: list[Any]) -> Table:
    from rich.table import Table

    from flo.cli.terminal.output import plain
    from flo.privacy.accounting.life_budget import SUB_LEDGERS

    table = Table("study", "approved", "state", "releases", *SUB_LEDGERS, box=None)
    for use in uses:
        made = ", ".join(f"{n} of {of} {purpose}" for purpose, (n, of) in use.releases.items())
        table.add_row(
            plain(use.study),
            use.approved[:10],
            "ended" if use.settled else "open",
            made,
            *(
                f"{use.spent[s]:.1%}" + (f" + {use.reserved[s]:.1%}" if use.reserved[s] else "")
                for s in SUB_LEDGERS
            ),
        )
    return table


def _document(
    name: str, now: Moment, fits: dict[str, Any], epsilon: float, delta: float, uses: list[Any]
) -> dict[str, Any]:
    return {
        "population": name,
        "epsilon": epsilon,
        "delta": delta,
        "sub_ledgers": {
            sub_ledger: {
                "spent": now.spent[sub_ledger],
                "reserved": now.committed[sub_ledger] - now.spent[sub_ledger],
                "free": max(0.0, 1 - now.committed[sub_ledger]),
                "largest_epsilon": fit.largest_epsilon,
                "studies_that_fit": {f"{e:g}": n for e, n in fit.studies.items()},
            }
            for sub_ledger, fit in fits.items()
        },
        "studies": [{field: getattr(use, field) for field in _OF_A_STUDY} for use in uses],
    }
