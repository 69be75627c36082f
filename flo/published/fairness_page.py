"""For whom a model fails, as a page for an ethics committee: no script, no network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flo.keys.identity import fingerprint, format_fingerprint
from flo.pages import plots
from flo.pages.templates import Pages
from flo.privacy.releases.group_rates import Rate
from flo.published.fairness import Adjusted, Fairness, in_words
from flo.published.model_card import PublishedModel
from flo.study.columns import CategoryColumn
from flo.study.schema import Schema
from flo.study.wording import code_in_words, titles

_TITLES = {
    "sensitivity": ("Who is found", "Of the patients who have the outcome, this share is flagged."),
    "false alarms": ("False alarms", "Of the patients who do not have it, this share is flagged."),
}


def render(model: PublishedModel, found: Fairness) -> str:
    """Return the page of a model at the threshold that ``found`` is of."""
    signed_by = fingerprint(bytes.fromhex(model.card.coordinator))
    return Pages(Path(__file__).parent, base="").text(
        "fairness.html.j2",
        model=model,
        signed_by=format_fingerprint(signed_by),
        **shown(model.study.data, found),
    )


def shown(schema: Schema, found: Fairness) -> dict[str, Any]:
    """Return the values that the part of a page about groups needs.

    ``titles``: of columns, and ``called``: of each column's groups, in the study's words.
    """
    columns = list(dict.fromkeys(gap.column for gap in found.gaps))
    called = {name: _called(schema.category(name)) for name in columns}
    return {
        "threshold": found.threshold,
        "titles": titles(schema),
        "called": called,
        "evaluated": len(found.hospitals),
        "columns": [(column, _shown(found, column, called[column])) for column in columns],
        "adjusted": {one.column: (one, _curve(one.curve)) for one in found.adjusted},
        "moves": {one.column: _moves(one) for one in found.adjusted},
    }


def _called(column: CategoryColumn) -> dict[str, str]:
    """Return group -> what it is called."""
    return {code: code_in_words(column, code) for code in column.codes} | {"missing": "missing"}


def _shown(found: Fairness, column: str, called: Mapping[str, str]) -> list[dict[str, Any]]:
    shown = []
    for gap in found.gaps:
        if gap.column != column:
            continue
        rows = [
            (called[rate.group], rate.low, rate.value, rate.high)
            for rate in gap.rates
            if rate.value is not None
        ]
        title, meaning = _TITLES[gap.kind]
        words = in_words(gap)
        shown.append(
            {
                **{
                    "title": title,
                    "meaning": meaning,
                    "gap": gap,
                    "words": words[0].upper() + words[1:],
                },
                "plot": plots.intervals(rows, 0.0, 1.0) if rows else None,
                "few": [rate for rate in gap.rates if rate.value is None],
            }
        )
    return shown


def _moves(one: Adjusted) -> list[tuple[str, float, str, str]]:
    """Return each group's threshold, and what it does to those found and to false alarms."""
    rates = zip(
        *(gap.rates for gap in (one.before[0], one.after[0], one.before[1], one.after[1])),
        strict=True,
    )
    return [
        (was.group, one.groups[was.group], _move(was, now), _move(alarmed, then))
        for was, now, alarmed, then in rates
    ]


def _move(was: Rate, now: Rate) -> str:
    if was.value is None or now.value is None:
        return "too few to say"
    return f"{100 * was.value:.1f} % → {100 * now.value:.1f} %"


def _curve(curve: tuple[tuple[float, float, float], ...]) -> plots.Plane:
    """Plot what is left of both gaps over the way from the common threshold, in per cent."""
    ways = [100 * number / (len(curve) - 1) for number in range(len(curve))]
    lines = [
        (name, [(way, 100 * at[place]) for way, at in zip(ways, curve, strict=True)])
        for place, name in enumerate(("found", "alarms"))
    ]
    return plots.plane(lines, most_across=100.0, least_top=1.0)
