"""Made-up studies of any size, and data files of made-up patients for them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import tomli_w

from flo.study.document import Study, from_document

PATIENTS = 20
HIDDEN = {  # megabytes of a float32 model -> its hidden layers
    0.1: (154, 154),
    1.0: (496, 496),
    10.0: (1577, 1577),
    100.0: (4096, 4096, 2048),
}
_COLUMNS = ("pulse", "age", "weight", "pressure")


def study_of(
    hospitals: int,
    megabytes: float | None = None,
    *,
    steps: int,
    secure_sum: bool = True,
    dropouts: int | None = None,
) -> Study:
    """Return a study of an MLP of ``megabytes`` (a key of ``HIDDEN``), or of a logistic model.

    With ``secure_sum``, noise is distributed. Without it, noise is local, and the coordinator sees
    each hospital's noisy sums. ``dropouts``: absent hospitals that a secure sum survives, the usual
    number if None.
    """
    model: dict[str, Any] = {"kind": "logistic"}
    number = {"kind": "number", "unit": "points", "minimum": 0, "maximum": 100}
    if megabytes is not None:
        model = {"kind": "mlp", "hidden": HIDDEN[megabytes]}
    return from_document(
        {
            "schema_version": 4,
            "name": "made-up",
            "version": 1,
            "purpose": "Measure how long a round takes.",
            "legal_basis": "Made-up patients.",
            "expires": "2099-12-31",
            "hospitals": [
                {"id": f"site-{i}", "declared_size": PATIENTS} for i in range(1, hospitals + 1)
            ],
            "data": {
                "record": "patient",
                "records_per_patient": "one",
                "label": "ill",
                "columns": [number | {"name": name} for name in _COLUMNS],
            },
            "model": model,
            "mechanism": {
                "noise": "distributed" if secure_sum else "local",
                "masking": "on" if secure_sum else "off",
                "epsilon": 0.9,
                "delta": 1e-6,
                "clip": 1.0,
                "steps": steps,
                "learning_rate": 0.1,
                "retry_allowance": 1,
                "dropouts": dropouts,
            },
            "evaluation": {"epsilon": 0.9, "retry_allowance": 0},
            "limits": {"deadline_seconds": 600, "minimum_cohort": 2},
        }
    )


def write(study: Study, folder: Path) -> None:
    """Write ``study.toml``, and HOSPITAL.csv for each hospital, into ``folder``."""
    text = tomli_w.dumps(study.model_dump(mode="json", exclude_none=True))
    (folder / "study.toml").write_text(text, encoding="utf-8")
    numbers = random.Random(1)  # noqa: S311
    for hospital in study.hospitals:
        lines = [",".join(("patient_id", *_COLUMNS, "ill"))]
        for patient in range(hospital.declared_size):
            values = [numbers.randint(0, 100) for _ in _COLUMNS]
            ill = int(sum(values) > 200)
            lines.append(f"{hospital.id}-{patient},{','.join(map(str, values))},{ill}")
        (folder / f"{hospital.id}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
