"""Three partners of one real site, who deal, sign a list without one of them, and let it reveal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from flo.clients.agent.handler import Handler
from flo.clients.agent.masking import attempt_at
from flo.clients.agent.run_keys import OwnKey
from flo.keys.claims import HeadAttestation, ListSignature
from flo.keys.identity import Identity
from flo.privacy.ledger.ledger import Ledger
from flo.privacy.secure_sum.deals import turn_of
from flo.privacy.secure_sum.survivors import statement
from flo.protocol.messages import Request, RequestHeader, decode_reply, model_digest
from flo.study.document import Study
from tests.partners import encode_request, run_key, signed

OWN, MISSING = "north", "west"
LENGTH = 6


def surviving_request(
    handler: Handler,
    ledger: Ledger,
    study: Study,
    round_: int,
    *,
    identities: Mapping[str, Identity],
    epoch: int,
) -> tuple[bytes, bytes, Callable[[bytes], bytes]]:
    """Return a good request for a release, one to sign the list without ``MISSING``, and a function
    from what the site then says to the request that it reveal.

    The site joins for the round first, as it would after every start.
    """
    made = {n: run_key(one, study.digest, "run-1", epoch) for n, one in identities.items()}
    partners = {name: OwnKey(private, public, {}) for name, (private, public) in made.items()}
    nothing, weights = np.zeros(0), np.full(LENGTH, float(round_))
    cohort = tuple(sorted([OWN, *partners]))
    join = RequestHeader(
        kind="join",
        study=study.digest,
        run="run-1",
        purpose="training",
        round=round_,
        attempt=1,
        cohort=cohort,
        model=model_digest(nothing),
        keys={name: partner.public for name, partner in partners.items()},
    )
    answer = handler.answer(encode_request(Request(join, nothing)))
    assert answer is not None
    joined = decode_reply(answer).header
    assert joined.key is not None
    assert joined.deal is not None
    keys = {name: partner.public for name, partner in partners.items()} | {OWN: joined.key}
    deals = {OWN: joined.deal} | {
        name: partner.dealing.deal(
            study, turn_of(join), name, partner, {n: key for n, key in keys.items() if n != name}
        )
        for name, partner in partners.items()
    }
    witness = next(iter(identities.values()))
    voucher = HeadAttestation.given(witness, study.digest, "run-1", joined.key, ledger.head())
    asked = join.model_copy(
        update={
            "kind": "release",
            "model": model_digest(weights),
            "keys": keys,
            "heads": {n: signed(one, 1) for n, one in identities.items()} | {OWN: ledger.head()},
            "vouchers": {OWN: voucher},
            "deals": {name: deal.public for name, deal in deals.items()},
            "sealed": {n: deals[n].sealed[joined.key.key] for n in partners},
        }
    )
    survivors = tuple(name for name in cohort if name != MISSING)
    agreed = statement(attempt_at(study, asked, LENGTH), survivors)
    relayed: dict[str, Any] = {"keys": {}, "heads": {}, "vouchers": {}, "deals": {}, "sealed": {}}
    sign = asked.model_copy(
        update={"kind": "sign", "model": model_digest(nothing), "survivors": survivors, **relayed}
    )
    signatures = {
        name: ListSignature.signed(identities[name], agreed) for name in survivors if name != OWN
    }

    def reveal(answer: bytes) -> bytes:
        own = {OWN: decode_reply(answer).header.signature}
        certified = {"kind": "reveal", "signatures": signatures | own}
        return encode_request(Request(sign.model_copy(update=certified), nothing))

    return encode_request(Request(asked, weights)), encode_request(Request(sign, nothing)), reveal
