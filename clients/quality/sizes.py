"""Whether there are about as many patients as the study counts on, and whether they are patients.

A file that was cut off fits every rule of a study, and so do ids of stays in place of patients. In
the first case the study divides its sum by more patients than gave to it. In the second each stay
counts as a patient: the privacy budget then protects one stay, and not all of a patient's.
"""

from __future__ import annotations

from flo.clients.quality.findings import DataFinding
from flo.study.schema import Schema

SIZE = "number of patients"
_TIMES = 2.0  # more or fewer than declared
_GROWN = 1.1  # since it was declared, and rounded


def unexpected_size(
    ids: list[str], id_column: str, schema: Schema, declared: int | None
) -> list[DataFinding]:
    """What there is to ask about n records with these ``ids``.

    ``declared``: the patients whom the study counts on here; None if it names no such number.
    """
    patients = len(set(ids))
    if declared is None:
        return []
    rule = f"{patients} patients ({len(ids)} records), and the study counts on {declared} here"
    if patients < declared / _TIMES:
        rule += ": is the file whole?"
    elif patients > declared * _TIMES or _may_be_stays(ids, patients, schema, declared):
        rule += ": are these ids of patients, or of their stays?"
    else:
        return []
    return [DataFinding(id_column, rule, level="to accept", kind=SIZE)]


def _may_be_stays(ids: list[str], patients: int, schema: Schema, declared: int) -> bool:
    """Whether nobody has two records where many could have them, and too many are here."""
    many = schema.records_per_patient == "many"
    return many and patients == len(ids) > declared * _GROWN
