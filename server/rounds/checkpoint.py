"""Serialization of a run's state, from which a restart continues.

Vectors of a small model are in the document, as base64 of raw little-endian floats. Larger vectors
are stored separately (``flo.server.rounds.checkpoint_vectors``) and the document contains their
keys, because most saves change none of them.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from flo.documents import canonical
from flo.errors import TrustError
from flo.keys.claims import HeadAttestation, LedgerHead, RunKey
from flo.privacy.releases.calibration import Calibration
from flo.privacy.releases.score_waves import Estimate
from flo.protocol.deals import Deal
from flo.server.rounds.state import RunState
from flo.study.parameters import Vector

SCHEMA_VERSION = 10
# A state of schema 5 has no calibration; before 7 there were no deals, before 8 neither an earlier
# model nor statistics, before 9 no gate, before 10 no sums of an evaluation.
_READ = (5, 6, 7, 8, 9, 10)
_LIMIT = 64 << 20
_VECTORS = (
    *("weights", "velocity", "tail_sum", "whitening", "earlier"),
    *("sums", "regressed", "regressed_at", "compared", "released"),
    "evaluated",
)
_KINDS: dict[str, np.dtype[Any]] = {"<f4": np.dtype("<f4"), "<f8": np.dtype("<f8")}
_LARGEST_INSIDE = 1 << 16  # bytes

Keep = Callable[[str, Vector], str]
Load = Callable[[str, str, "np.dtype[Any]", int], Vector]


def to_bytes(state: RunState, keep: Keep | None = None) -> bytes:
    """Serialize a state. ``keep`` stores a large vector by name and returns its key.

    Without ``keep`` all vectors are in the document.
    """
    return canonical.encode(
        {
            "schema_version": SCHEMA_VERSION,
            "phase": state.phase,
            "round": state.round,
            "attempt": state.attempt,
            "tail_count": state.tail_count,
            "earlier_worth": state.earlier_worth,
            "sums_of": list(state.sums_of),
            "compared_digest": state.compared_digest,
            "released_by": list(state.released_by),
            "evaluated_by": list(state.evaluated_by),
            "regressed_of": [list(one) for one in state.regressed_of],
            "retries": state.retries,
            "cohort": list(state.cohort),
            "heads": {h: head.model_dump(mode="json") for h, head in state.heads.items()},
            "keys": {h: key.model_dump(mode="json") for h, key in state.keys.items()},
            "vouchers": {h: given.model_dump(mode="json") for h, given in state.vouchers.items()},
            "deals": {h: dealt.model_dump(mode="json") for h, dealt in state.deals.items()},
            "survivors": list(state.survivors),
            "vectors": {name: _document(name, getattr(state, name), keep) for name in _VECTORS},
            "estimate": asdict(state.estimate) if state.estimate else None,
            "subgroups": {name: asdict(found) for name, found in state.subgroups.items()},
            "calibration": state.calibration and state.calibration.model_dump(mode="json"),
            "earlier_horizons": [one.model_dump(mode="json") for one in state.earlier_horizons],
            "steps": [one.model_dump(mode="json") for one in state.steps],
            "by_class": [one.model_dump(mode="json") for one in state.by_class],
        }
    )


def from_bytes(data: bytes, load: Load | None = None) -> RunState:
    """Parse a state. ``load`` returns a vector that ``keep`` stored: name, key, type, length.

    Raises:
        TrustError: this is not a checkpoint of schema 5 to 10, or ``load`` does not find a vector.
    """
    document: dict[str, Any] = canonical.decode(data, limit=_LIMIT, what="checkpoint")
    if document.get("schema_version") not in _READ:
        raise TrustError(
            f"checkpoint schema {document.get('schema_version')!r} cannot be read; this version of "
            f"FLO reads {_READ[0]} to {_READ[-1]}"
        )
    estimate, risks = document["estimate"], document.get("calibration")
    return RunState(
        phase=document["phase"],
        round=document["round"],
        attempt=document["attempt"],
        **{
            name: _vector(name, document["vectors"][name], load)
            for name in _VECTORS
            if name in document["vectors"]
        },
        tail_count=document["tail_count"],
        earlier_worth=document.get("earlier_worth", 0.0),
        sums_of=tuple(document.get("sums_of", ())),
        compared_digest=document.get("compared_digest", ""),
        released_by=tuple(document.get("released_by", ())),
        evaluated_by=tuple(document.get("evaluated_by", ())),
        regressed_of=tuple(tuple(one) for one in document.get("regressed_of", ())),
        retries=document["retries"],
        cohort=tuple(document["cohort"]),
        heads={h: LedgerHead.model_validate(head) for h, head in document["heads"].items()},
        keys={h: RunKey.model_validate(key) for h, key in document["keys"].items()},
        vouchers={
            h: HeadAttestation.model_validate(given) for h, given in document["vouchers"].items()
        },
        deals={h: Deal.model_validate(dealt) for h, dealt in document.get("deals", {}).items()},
        survivors=tuple(document.get("survivors", ())),
        estimate=Estimate(**estimate) if estimate else None,
        subgroups={name: Estimate(**found) for name, found in document["subgroups"].items()},
        calibration=Calibration.model_validate(risks) if risks else None,
        earlier_horizons=_curves(document.get("earlier_horizons", ())),
        steps=_curves(document.get("steps", ())),
        by_class=_curves(document.get("by_class", ())),
    )


def _curves(documents: Sequence[dict[str, Any]]) -> tuple[Calibration, ...]:
    return tuple(Calibration.model_validate(one) for one in documents)


def _document(name: str, vector: Vector, keep: Keep | None) -> dict[str, Any]:
    kind = vector.dtype.newbyteorder("<").str
    document: dict[str, Any] = {"kind": kind, "length": len(vector)}
    if keep is None or vector.nbytes <= _LARGEST_INSIDE:
        raw = np.ascontiguousarray(vector, dtype=kind).tobytes()
        return document | {"data": base64.b64encode(raw).decode()}
    if vector.max() == vector.min() == 0:  # still all zeros, as the tail sum before half way
        return document
    return document | {"key": keep(name, vector)}


def _vector(name: str, document: dict[str, Any], load: Load | None) -> Vector:
    kind, length = _KINDS[document["kind"]], int(document["length"])
    if "data" in document:
        raw = base64.b64decode(document["data"], validate=True)
        return np.frombuffer(raw, dtype=kind).astype(kind.newbyteorder("="))
    if "key" not in document:
        return np.zeros(length, dtype=kind)
    if load is None:
        raise TrustError(f"this checkpoint does not contain its {name}")
    vector = load(name, document["key"], kind, length)
    if vector.shape != (length,) or not math.isfinite(float(vector.sum())):
        raise TrustError(f"the stored {name} are not {length} finite numbers")
    return vector
