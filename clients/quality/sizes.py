"""Compare the number of patients with the number that the study expects.

A truncated file breaks no rule of a study, and neither do ids of stays in place of patient ids. In
the first case the study divides its sum by more patients than contributed to it. In the second case
each stay counts as a patient: the privacy budget then protects one stay, and not all stays of a
patient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flo.clients.quality.findings import DataFinding
from flo.study.schema import Schema

SIZE = "number of patients"
_TIMES = 2.0  # factor by which more or fewer than declared are unexpected
_GROWN = 1.1  # factor for growth since the declaration, and for rounding


@dataclass(frozen=True)
class Expected:
    """How many patients a study plans to use here.

    ``has_no_budget``: whether a patient, by id, does not take part because of earlier studies.
    """

    patients: int
    has_no_budget: Callable[[str], bool] = lambda name: False


def unexpected_size(
    ids: list[str], id_column: str, schema: Schema, expected: Expected | None
) -> list[DataFinding]:
    """Return a finding to accept if the number of different ``ids`` is unexpected.

    ``ids``: one per record. ``expected``: None skips the check.
    """
    if expected is None:
        return []
    spent = {name for name in set(ids) if expected.has_no_budget(name)}
    ids = [name for name in ids if name not in spent]
    patients, declared = len(set(ids)), expected.patients
    rule = f"{patients} patients ({len(ids)} records), and the study expects {declared} here"
    if spent:
        rule = f"without those whose budget has no room, {rule}"
    if patients < declared / _TIMES:
        rule += ": is the file complete?"
    elif patients > declared * _TIMES or _may_be_stays(ids, patients, schema, declared):
        rule += ": are these ids of patients, or of their stays?"
    else:
        return []
    return [DataFinding(id_column, rule, level="to accept", kind=SIZE)]


def _may_be_stays(ids: list[str], patients: int, schema: Schema, declared: int) -> bool:
    """Return whether ids may be those of stays: none repeats, and there are too many.

    Too many are over 10 % more than declared. Only for studies with many records per patient.
    """
    many = schema.records_per_patient == "many"
    return many and patients == len(ids) > declared * _GROWN
