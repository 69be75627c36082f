"""``make bench-faults``: seeded schedules of faults, and what came of them.

python -m tests.faults [SCHEDULES] [FIRST SEED]

Of a single schedule the whole story is told.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.faults.bench import LONGEST_SECONDS, Outcome, run_many


def table(outcomes: list[Outcome]) -> str:
    done = [outcome for outcome in outcomes if outcome.status == "done"]
    wrong = sum(bool(outcome.wrong) for outcome in outcomes)
    struck = Counter(fault.kind for outcome in outcomes for fault in outcome.faults)
    seconds = [outcome.seconds for outcome in done] or [float("nan")]
    others = Counter(outcome.status for outcome in outcomes if outcome.status != "done")
    retries = sum(outcome.retries for outcome in outcomes)
    lines = [
        f"schedules                          {len(outcomes)}",
        f"with a violated invariant          {wrong}",
        f"complete without a human           {len(done)} ({len(done) / len(outcomes):.1%})",
        f"seconds, median and longest        {statistics.median(seconds):.1f}, {max(seconds):.1f}",
        f"attempts thrown away               {retries}",
        f"other ends                         {dict(others)}",
        "faults that struck",
        *(f"  {kind:32s} {count}" for kind, count in sorted(struck.items())),
    ]
    return "\n".join(lines)


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0

    def say(line: str) -> None:
        print(line, flush=True)  # noqa: T201

    say(f"{count} schedules from seed {first}; each may take {LONGEST_SECONDS:g} s at most")
    with tempfile.TemporaryDirectory() as folder:
        seeds = range(first, first + count)
        outcomes = run_many(Path(folder), seeds, say)
    if count == 1:
        say("\n".join(outcomes[0].story))
    say(table(outcomes))
    return int(any(outcome.wrong for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
