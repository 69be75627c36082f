"""A run's state as bytes: what a restart continues from. Vectors are base64 of raw float64."""

from __future__ import annotations

import base64
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from flo import canonical
from flo.claims import Head, RunKey, Voucher
from flo.errors import TrustError
from flo.privacy.evaluation import Estimate
from flo.privacy.survey import Counted
from flo.server.rounds import RunState

SCHEMA_VERSION = 3
_LIMIT = 4 << 30


def to_bytes(state: RunState) -> bytes:
    return canonical.encode(
        {
            "schema_version": SCHEMA_VERSION,
            "phase": state.phase,
            "round": state.round,
            "attempt": state.attempt,
            "tail_count": state.tail_count,
            "retries": state.retries,
            "cohort": list(state.cohort),
            "heads": {h: head.model_dump(mode="json") for h, head in state.heads.items()},
            "keys": {h: key.model_dump(mode="json") for h, key in state.keys.items()},
            "vouchers": {h: given.model_dump(mode="json") for h, given in state.vouchers.items()},
            "weights": _text(state.weights),
            "velocity": _text(state.velocity),
            "tail_sum": _text(state.tail_sum),
            "estimate": asdict(state.estimate) if state.estimate else None,
            "subgroups": {name: asdict(found) for name, found in state.subgroups.items()},
            "counted": {
                hospital: [asdict(column) for column in columns]
                for hospital, columns in state.counted.items()
            },
        }
    )


def from_bytes(data: bytes) -> RunState:
    """Raises TrustError if this is not a checkpoint of schema 3."""
    document: dict[str, Any] = canonical.decode(data, limit=_LIMIT, what="checkpoint")
    if document.get("schema_version") != SCHEMA_VERSION:
        raise TrustError(f"checkpoint schema {document.get('schema_version')!r} is not known here")
    estimate = document["estimate"]
    return RunState(
        phase=document["phase"],
        round=document["round"],
        attempt=document["attempt"],
        weights=_vector(document["weights"]),
        velocity=_vector(document["velocity"]),
        tail_sum=_vector(document["tail_sum"]),
        tail_count=document["tail_count"],
        retries=document["retries"],
        cohort=tuple(document["cohort"]),
        heads={h: Head.model_validate(head) for h, head in document["heads"].items()},
        keys={h: RunKey.model_validate(key) for h, key in document["keys"].items()},
        vouchers={h: Voucher.model_validate(given) for h, given in document["vouchers"].items()},
        estimate=Estimate(**estimate) if estimate else None,
        subgroups={name: Estimate(**found) for name, found in document["subgroups"].items()},
        counted={
            hospital: [_counted(column) for column in columns]
            for hospital, columns in document["counted"].items()
        },
    )


def _counted(column: dict[str, Any]) -> Counted:
    return Counted(
        column["column"], tuple(column["cells"]), tuple(column["patients"]), column["half_width"]
    )


def _text(vector: npt.NDArray[np.float64]) -> str:
    return base64.b64encode(np.ascontiguousarray(vector, dtype="<f8").tobytes()).decode()


def _vector(text: str) -> npt.NDArray[np.float64]:
    return np.frombuffer(base64.b64decode(text, validate=True), dtype="<f8").astype(np.float64)
