"""The hospitals of a simulation: they answer the same messages as agents, masks included.

They have no ledger and no steward, and their keys are generated for one simulation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from flo.clients.agent.masking import mask
from flo.clients.agent.run_keys import OwnKey, RunKeys
from flo.clients.data_process.trainer import Trainer
from flo.keys.claims import HeadAttestation, LedgerHead
from flo.keys.identity import Identity
from flo.privacy.secure_sum.masking import cohort_digest
from flo.protocol.messages import Reply, ReplyHeader, Request, Values, decode_request, encode_reply
from flo.study.document import Study, from_document

RUN = "simulation"
_NO_HEAD = LedgerHead(sequence=1, hash="0" * 64, signature="0", public="00")


@dataclass(frozen=True)
class SiteKeys:
    """A simulated hospital's identity, and its key for the only run."""

    identity: Identity
    own: OwnKey


@lru_cache(maxsize=8)
def enrol(study: Study) -> tuple[Study, dict[str, Identity]]:
    """Return the study with the fingerprints of generated hospital keys, and these keys.

    No simulated hospital drops out, so sums need not survive it. A sum that survives dropouts has
    the same noise if nobody is missing.
    """
    keys = {hospital.id: Identity.new() for hospital in study.hospitals}
    document = study.model_dump(mode="json")
    if study.tolerance:
        document["mechanism"]["dropouts"] = 0
    for hospital in document["hospitals"]:
        hospital["fingerprint"] = keys[hospital["id"]].fingerprint
    return from_document(document), keys


def run_keys(study: Study, identities: Mapping[str, Identity]) -> dict[str, SiteKeys]:
    """Generate new run keys for the hospitals of an enrolled study."""
    return {
        hospital: SiteKeys(identity, RunKeys(identity).join(study.digest, RUN, None, {}))
        for hospital, identity in identities.items()
    }


class SimulatedSites:
    """Some or all hospitals of a study."""

    def __init__(
        self, study: Study, trainers: Mapping[str, Trainer], keys: Mapping[str, SiteKeys]
    ) -> None:
        self._study, self._trainers, self._keys = study, trainers, keys

    @property
    def hospitals(self) -> set[str]:
        """Ids of the hospitals that answer here."""
        return set(self._keys)

    def answer(self, hospital: str, data: bytes) -> bytes:
        """Return this hospital's reply to a request."""
        request, keys = decode_request(data), self._keys[hospital]
        header, facts, values = request.header, {}, np.zeros(0, dtype=np.int64)
        match header.kind:
            case "join":
                facts = {
                    "key": keys.own.public,
                    "vouchers": {
                        name: HeadAttestation.given(
                            keys.identity, header.study, header.run, key, None
                        )
                        for name, key in header.keys.items()
                        if name != hospital
                    },
                }
            case "release":
                values = self._release(hospital, request)
                facts = {"cohort": cohort_digest(header.members())}
        reply = ReplyHeader.model_validate(
            {
                "kind": {"join": "joined", "finish": "settled"}.get(header.kind, header.kind),
                "hospital": hospital,
                "head": _NO_HEAD,
                "ring": 8 * values.itemsize if values.dtype.kind == "u" else 0,
                **header.model_dump(
                    include={"study", "run", "purpose", "round", "attempt", "model"}
                ),
                **facts,
            }
        )
        return encode_reply(Reply(reply, values))

    def _release(self, hospital: str, request: Request) -> Values:
        header = request.header
        trainer, own = self._trainers[hospital], self._keys[hospital].own
        noisy = trainer.release(header.purpose, request.weights, len(header.cohort))
        return mask(self._study, header, own, noisy)
