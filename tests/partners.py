"""A site's partners, for tests of one site: their keys, and all that they sign for a request."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from flo.arrays import Integers
from flo.clients.agent.handler import Handler, Releaser
from flo.clients.agent.run_keys import RunKeys
from flo.clients.home.site_home import SiteHome
from flo.keys.claims import HeadAttestation, LedgerHead, RunKey, row_statement
from flo.keys.identity import Identity
from flo.privacy.ledger.ledger import Ledger
from flo.privacy.secure_sum.masking import Attempt, cohort_digest, masked, new_run_key, pair_secret
from flo.privacy.secure_sum.ring import from_ring
from flo.protocol.messages import (
    Request,
    RequestHeader,
    Values,
    decode_reply,
    model_digest,
    request_body,
    request_head,
)
from flo.study.document import Study


def encode_request(request: Request) -> bytes:
    """The whole of it, as a site gets it."""
    return b"".join((request_head(request.header), request_body(request.weights)))


@cache
def partner(hospital: str) -> Identity:
    """The identity of a hospital that exists in tests only; the same one every time."""
    return Identity.new()


def run_key(
    identity: Identity, study: str, run: str = "run-1", epoch: int = 1
) -> tuple[X25519PrivateKey, RunKey]:
    """A partner's run key; the same one every time."""
    return _made(identity, study, run, epoch)


@cache
def _made(identity: Identity, study: str, run: str, epoch: int) -> tuple[X25519PrivateKey, RunKey]:
    return new_run_key(identity, study, run, epoch)


def handler_of(home: SiteHome, ledger: Ledger, releaser: Releaser) -> Handler:
    """A handler as after a start of the agent: without the run keys of before."""
    return Handler(home, ledger, releaser, RunKeys(home.open_identity()), lambda _: None)


def signed(identity: Identity, sequence: int, row: str = "c" * 64) -> LedgerHead:
    """A head that ``identity`` signed, whether such a row exists or not."""
    signature = identity.sign("ledger-row", row_statement(sequence, row))
    return LedgerHead(
        sequence=sequence, hash=row, signature=signature, public=identity.public.hex()
    )


def join(
    handler: Handler, study: Study, run: str = "run-1", keys: Mapping[str, RunKey] | None = None
) -> RunKey | None:
    """The site's run key, as it answers a call to join; None if it refuses."""
    nothing = np.zeros(0)
    header = RequestHeader(
        kind="join",
        study=study.digest,
        run=run,
        purpose=study.purposes[0],
        round=1,
        attempt=1,
        cohort=tuple(sorted(hospital.id for hospital in study.hospitals)),
        model=model_digest(nothing),
        keys=dict(keys or {}),
    )
    answer = handler.answer(encode_request(Request(header, nothing)))
    assert answer is not None
    reply = decode_reply(answer).header
    return reply.key if reply.kind == "joined" else None


def unmasked(header: RequestHeader, values: Values, own: str = "north") -> Integers:
    """What a site masked, by all of its partners' private run keys: they could, together."""
    attempt = Attempt(
        **header.model_dump(include={"study", "run", "purpose", "round", "attempt", "model"}),
        cohort=cohort_digest(header.members()),
        ring=8 * values.itemsize,
        length=len(values),
    )
    total, nothing = values.copy(), np.zeros(len(values), dtype=np.int64)
    for name, key in header.keys.items():
        if name != own:
            private, _ = run_key(partner(name), header.study, header.run, key.epoch)
            secret = pair_secret(private, header.keys[own])
            total += masked(
                nothing, key.fingerprint, {header.keys[own].fingerprint: secret}, attempt
            )
    return from_ring(total, attempt.ring)


def claims(
    handler: Handler,
    ledger: Ledger,
    study: Study,
    cohort: tuple[str, ...],
    run: str = "run-1",
    *,
    identities: Mapping[str, Identity] | None = None,
    own: str = "north",
    relayed: Mapping[str, LedgerHead] | None = None,
    epoch: int = 1,
) -> dict[str, Any]:
    """``keys``, ``heads`` and ``vouchers`` of a good request to the site called ``own``.

    ``relayed``: heads of partners; made up, with row 1, for those who are not in it.
    """
    known = {h.id: (identities or {}).get(h.id) or partner(h.id) for h in study.hospitals}
    key = join(handler, study, run)
    if key is None:
        return {}
    others = [name for name in cohort if name != own and name in known]
    heads = {name: signed(known[name], 1) for name in others} | dict(relayed or {})
    keys = {name: run_key(known[name], study.digest, run, epoch)[1] for name in others}
    witness = known[others[0]] if others else Identity.new()
    voucher = HeadAttestation.given(witness, study.digest, run, key, ledger.head())
    return {
        "keys": {**keys, own: key},
        "heads": {**heads, own: ledger.head()},
        "vouchers": {own: voucher},
    }
