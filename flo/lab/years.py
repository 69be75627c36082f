"""Years of one study: patients arrive, the study is repeated, and its model goes on learning.

Each hospital has a real ledger, whose generations decide who takes part
(``flo.privacy.ledger.generations``). Its patients are spread over the years by a keyed hash of
their ids. The study of a year expects its share of the patients.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from flo.clients.quality.check import EncodedTable
from flo.clients.records.snapshot import Snapshot
from flo.errors import UsageError
from flo.keys.identity import Identity
from flo.lab.by_year import WAYS, Years
from flo.lab.folds import Fold, tested, within
from flo.lab.in_the_clear import train_in_the_clear
from flo.privacy.accounting.life_budget import SUB_LEDGERS
from flo.privacy.accounting.plan import Plan
from flo.privacy.ledger.ledger import Ledger
from flo.privacy.report.sheet import ASSUMED_HOLD_OUT
from flo.server.rounds.continuing import EarlierModel
from flo.study import usual
from flo.study.document import Study, from_document
from flo.study.models import log_odds
from flo.study.parameters import Vector
from flo.study.terms import round_size
from flo.study.usual import worth

MOST_YEARS = 50
_POPULATION = "main"
Who = Mapping[str, set[str]]


def study_of_a_year(study: Study, year: int, years: int) -> Study:
    """Return the study of one year, of schema 4: each hospital expects its share of patients.

    Whitened training has the settings that are drafted for so many patients. Raises UsageError: too
    many years, or too few patients for a year.
    """
    if not 2 <= years <= MOST_YEARS:
        raise UsageError(f"years = {years}, limit 2 to {MOST_YEARS}")
    document = study.model_dump(mode="json")
    document |= {"schema_version": 4, "version": study.version + year, "continues": None}
    if study.schema_version < 4:
        document["evaluation"].pop("bins")
    for hospital in document["hospitals"]:
        planned = (hospital["expected"] or hospital["declared_size"]) / years
        if planned < 10:
            raise UsageError(
                f"{hospital['id']} has {hospital['declared_size']} patients, which is fewer than "
                f"10 for each of {years} years",
                hint="choose fewer years",
            )
        hospital["expected"] = round_size(int(planned))
    if study.mechanism.algorithm == "whitened":
        everyone = sum(hospital["expected"] for hospital in document["hospitals"])
        document["mechanism"] |= usual.whitened(everyone, study.mechanism.epsilon)
    return from_document(document)


def run_years(
    study: Study,
    hospitals: Mapping[str, EncodedTable],
    fold: Fold,
    *,
    seed: int,
    all_at_once: float,
    found: Years,
) -> None:
    """Add one run to ``found``: the years of the patients of one fold.

    ``all_at_once``: AUC of one study of all patients who are not tested on.
    """
    key, years = hashlib.sha256(f"flo simulate years {seed}".encode()).digest(), found.count
    runs: dict[str, list[float]] = {way: [] for way in WAYS}
    models = dict[str, Vector]()
    earlier: EarlierModel | None = None
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        sites = {
            name: stack.enter_context(
                _site(Path(folder) / name, study, name, table, fold.aside[name])
            )
            for name, table in hospitals.items()
        }
        for year in range(years):
            asked = study_of_a_year(study, year, years)

            def since(begin: float, end: float = (year + 1) / years) -> dict[str, set[str]]:
                return {name: within(one.table, key, begin, end) for name, one in sites.items()}

            arrived = since(0)
            inside = {name: one.take_part(asked, arrived[name]) for name, one in sites.items()}
            models["fresh"] = train_in_the_clear(asked, _fold(sites, since(year / years)))
            models.setdefault("first_only", models["fresh"])
            if earlier is None:
                earlier = EarlierModel(models["fresh"], worth(asked))
            else:
                weights = train_in_the_clear(asked, _fold(sites, inside), earlier)
                earlier = EarlierModel(weights, earlier.worth + worth(asked))
            models["continued"] = earlier.weights
            for way, weights in models.items():
                runs[way].append(tested(fold, partial(log_odds, study, weights)).auc)
            runs["all_at_once"].append(all_at_once)
        spent = [site.life_epsilon for site in sites.values()]
    found.life_epsilon = max(found.life_epsilon, *spent)
    for way, values in runs.items():
        found.runs[way].append(values)


@dataclass(frozen=True)
class _Site:
    """One simulated hospital: its records, a ledger of its own, and who is tested on."""

    table: EncodedTable
    ledger: Ledger
    aside: frozenset[str]

    def take_part(self, study: Study, arrived: set[str]) -> set[str]:
        """Reserve and charge a study, as planned; return those of ``arrived`` who take part."""
        number = self.ledger.reserve(study, _POPULATION, arrived)
        inside = self.ledger.participants(number)
        about = {"study": study.digest, "run": "years", "attempt": 1}
        about |= dict.fromkeys(("model", "cohort", "reply"), "0" * 64)
        for purpose, part in Plan.of(study).purposes.items():
            for n in range(part.planned):
                request = f"{study.digest}/years/{purpose}/{n}"
                self.ledger.charge(number, purpose, request, {**about, "round": n + 1})
        self.ledger.settle(number, "ended")
        return {name for name in arrived if inside.include(name, SUB_LEDGERS[name in self.aside])}

    def snapshot(self, chosen: set[str]) -> Snapshot:
        """Return the records of the chosen patients."""
        others = set(self.table.patient_ids) - chosen
        return Snapshot.divided(self.table.without(others), set(self.aside))

    @property
    def life_epsilon(self) -> float:
        """ε of the most exposed patient: of all that the ledger counts as released."""
        balance = self.ledger.balance()
        spent = max(balance.charged(_POPULATION, side) for side in SUB_LEDGERS)
        return balance.lives[_POPULATION].epsilon_of(spent)


@contextmanager
def _site(
    path: Path, study: Study, name: str, table: EncodedTable, aside: set[str]
) -> Iterator[_Site]:
    """Open a hospital whose patients' life budget is one study of this ε."""
    with closing(Ledger(path, Identity.new())) as ledger:
        ledger.register_population(
            _POPULATION,
            epsilon=study.largest_epsilon,
            declared_size=study.hospital(name).declared_size,
            hold_out=ASSUMED_HOLD_OUT,
            private={},
        )
        yield _Site(table, ledger, frozenset(aside))


def _fold(sites: Mapping[str, _Site], chosen: Who) -> Fold:
    return Fold({name: site.snapshot(chosen[name]) for name, site in sites.items()})
