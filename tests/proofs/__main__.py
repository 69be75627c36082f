"""``python -m tests.proofs [GROUP ...] [--quick] [--json FILE]``: exit 1 if a promise is broken."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.proofs import (
    costs,
    dropouts,
    explanations,
    fairness,
    gain,
    green,
    model_regressions,
    monitored,
    outcomes,
    release_gate,
    statistics,
    truth,
    versions_compared,
    watched,
    years,
)
from tests.proofs.rows import Row


def _gate(quick: bool) -> Iterator[Row]:
    yield from release_gate.rows(quick)
    yield from model_regressions.rows(quick)
    yield from explanations.rows(quick)
    yield from fairness.rows(quick)


def _cost(quick: bool) -> Iterator[Row]:
    yield from costs.rows(quick)
    yield from green.rows(quick)


def _watch(quick: bool) -> Iterator[Row]:
    yield from watched.rows(quick)
    yield from monitored.rows(quick)


GROUPS: dict[str, Callable[[bool], Iterator[Row]]] = {
    "truth": truth.rows,
    "gain": gain.rows,
    "dropouts": dropouts.rows,
    "years": years.rows,
    "statistics": statistics.rows,
    "gate": _gate,
    "versions": versions_compared.rows,
    "watch": _watch,
    "outcomes": outcomes.rows,
    "cost": _cost,
}
_LINE = "{:7} {:58} {:>9} {:>14} {:>5} {:>6} {:>7}"


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.proofs", description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=", ".join(GROUPS))
    parser.add_argument("--quick", action="store_true", help="fewer runs, within three minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    asked = parser.parse_args(words)
    if unknown := set(asked.groups) - set(GROUPS):
        parser.error(f"no group {', '.join(sorted(unknown))}; there are: {', '.join(GROUPS)}")
    found = []
    _say("group", "name", "figure", "limit", "holds", "runs", "seconds")
    for group in asked.groups or GROUPS:
        for row in GROUPS[group](asked.quick):
            said = f"{row.figure:.4f}", row.limit, "yes" if row.holds else "NO"
            _say(group, row.name, *said, row.runs, f"{row.seconds:.0f}")
            found.append(
                {"group": group, "name": row.name, "figure": row.figure, "limit": row.limit}
                | {"holds": row.holds, "runs": row.runs, "seconds": round(row.seconds, 1)}
            )
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0 if all(row["holds"] for row in found) else 1


def _say(*words: object) -> None:
    sys.stdout.write(_LINE.format(*words) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
