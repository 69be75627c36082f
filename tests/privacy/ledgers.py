"""What tests of the ledger share: studies of a given cost, a population, a row's private facts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from flo.keys.identity import Identity
from flo.privacy.ledger.ledger import Ledger
from flo.study.document import Study
from tests.builders import small_study, study_document


def study_of(
    epsilon: float, name: str = "tiny", *, tested: float | None = None, **mechanism: Any
) -> Study:
    """A study of that ε in training, and of ``tested`` (by default the same) in evaluation."""
    document = study_document(name=name)
    document["mechanism"].update(epsilon=epsilon, **mechanism)
    document["evaluation"].update(epsilon=epsilon if tested is None else tested)
    return small_study(**document)


def survey_of(epsilon: float, name: str = "asked", **survey: Any) -> Study:
    """A survey of that ε by one column."""
    return small_study(name=name, survey={"epsilon": epsilon, "columns": ["ward"], **survey})


def register(ledger: Ledger, name: str = "main", epsilon: float = 0.9) -> None:
    ledger.register_population(
        name, epsilon=epsilon, declared_size=40, hold_out=0.3, private={"id_column": "patient_id"}
    )


def facts(study: Study, round_: int = 1) -> dict[str, Any]:
    return {"study": study.digest, "run": "r", "round": round_, "attempt": 1} | dict.fromkeys(
        ("model", "cohort", "reply"), "0" * 64
    )


@contextmanager
def new_ledger(path: Path, identity: Identity) -> Iterator[Ledger]:
    """A ledger with one population ``main`` of life ε = 0.9."""
    with closing(Ledger(path, identity)) as opened:
        register(opened)
        yield opened


def fill(ledger: Ledger) -> None:
    """Six more rows: reserve, three releases, a repeat, settle."""
    study = study_of(0.5)
    reservation = ledger.reserve(study, "main")
    for n in (1, 2, 3):
        ledger.charge(reservation, "training", f"request {n}", facts(study, n))
    released = ledger.find_release("request 3")
    assert released is not None
    ledger.repeat(reservation, released, "training", "request 4", facts(study, 3))
    ledger.settle(reservation, "ended")
