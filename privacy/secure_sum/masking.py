"""Secure sums: pairwise masks that cancel only in the sum of a whole cohort. The protocol.

The numbers stand at the code that does each step, here and in the rooms named.

    1. At the start of a run, and after every start of its agent, a hospital makes a fresh X25519
       key and signs it with its identity key, bound to study, run and an epoch above that of every
       earlier key of its (``flo.clients.agent.run_keys``). It lives in memory only.
    2. A run key counts only under the fingerprint that the approved study names for its hospital,
       whoever issued a certificate; of two keys of a hospital the later epoch's. A hospital that
       started releases nothing before a partner has vouched for the head of its ledger
       (``flo.clients.agent.partners``).
    3. Two hospitals share a secret: X25519 of their run keys (RFC 7748).
    4. For one attempt the pair's pad is a ChaCha20 stream (RFC 8439) whose key is HKDF-SHA256 (RFC
       5869) of the secret, the pair's fingerprints, and everything that makes this attempt this
       one: study, run, purpose, round, attempt, cohort digest, model digest, ring, length. The
       cohort digest covers who takes part, with which keys and with which ledger heads. No pad
       serves twice.
    5. Of a pair, the hospital with the smaller fingerprint adds the pad, the other subtracts it, in
       the ring of ``flo.privacy.secure_sum.ring``. What it masks is noisy already
       (``Mechanism.release``).
    6. The hospital writes and flushes the encrypted reply, commits the ledger row that names its
       digest, and only then sends. The same request gets the same bits; a differing one for an
       attempt that was answered is refused (``flo.clients.agent.handler``).
    7. All replies to an attempt are there: the pads cancel and the noisy sum appears. A sum beyond
       what honest hospitals could reach is thrown away (``flo.server.rounds.aggregation``,
       ``rounds``).
    8. One is missing: what is there is uniformly random and is thrown away; a new attempt names the
       survivors, never fewer than the study's floor (``flo.server.rounds.loop``). With distributed
       noise every attempt draws its noise anew and is charged; with local noise the same noisy
       vector goes out under the new attempt's pads, at charge 0.

Guarantee: computational (X25519, HKDF, ChaCha20), against the coordinator and any hospitals that
collude with it, for the sum of the others. A false dropout, or two cohorts shown to two hospitals,
cannot be seen by a hospital: pads of different attempts or cohorts never cancel, so the joint view
is uniform but for sums over whole cohorts. With distributed noise each of them has fresh noise and
is charged by every member. With local noise the same noisy vectors are in them, so a coordinator
that claims a false dropout sees the difference, one hospital's noisy vector: that is private by
its own noise and was charged once. Nothing here adds noise. Knows no network and keeps nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from flo.arrays import Integers
from flo.documents import canonical
from flo.errors import TrustError
from flo.keys.claims import LedgerHead, RunKey
from flo.keys.identity import Identity
from flo.privacy.secure_sum.ring import Int32Array, Masked, to_ring

_BLOCK_BYTES = 1 << 18  # of a pad at a time: what is added to it stays in the cache


def new_run_key(
    identity: Identity, study: str, run: str, epoch: int
) -> tuple[X25519PrivateKey, RunKey]:
    """A fresh key for one run, and what to send of it. [1]"""
    private = X25519PrivateKey.generate()
    key = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
    return private, RunKey.signed(identity, study, run, epoch, key)


def pair_secret(own: X25519PrivateKey, other: RunKey) -> bytes:
    """The secret of a pair. [3] Raises TrustError for a key of low order."""
    try:
        return own.exchange(X25519PublicKey.from_public_bytes(bytes.fromhex(other.key)))
    except ValueError as error:
        raise TrustError("a run key is not a usable X25519 key") from error


def cohort_digest(members: Iterable[tuple[RunKey, LedgerHead]]) -> str:
    """SHA-256 over the sorted (fingerprint, run key, epoch, ledger head) of an attempt's members.

    Heads are in it so that nobody can be shown an old one: pads cancel only if every hospital was
    shown the same heads, and each sees to it that its own is new.
    """
    named = sorted(
        [key.fingerprint, key.key, key.epoch, head.sequence, head.hash] for key, head in members
    )
    return canonical.digest(canonical.encode(named))


@dataclass(frozen=True)
class Attempt:
    """Everything that makes one attempt this one, and so its pads. [4]"""

    study: str
    run: str
    purpose: str
    round: int
    attempt: int
    cohort: str
    model: str
    ring: int
    length: int


def masked(
    values: Integers | Int32Array, own: str, secrets: dict[str, bytes], attempt: Attempt
) -> Masked:
    """``values`` (length,) under the pads with every partner. [4, 5]

    ``own`` and the keys of ``secrets`` are identity fingerprints.

    Raises:
        ValueError: the values have another length, a partner is oneself, or there is none.
    """
    if values.shape != (attempt.length,):
        raise ValueError(f"{values.shape} values for an attempt of {attempt.length}")
    if not secrets or own in secrets:
        raise ValueError("a mask needs partners, and oneself is none")
    total = to_ring(values, attempt.ring)
    pads = {other: _pad(secret, attempt, own, other) for other, secret in secrets.items()}
    step = _BLOCK_BYTES // total.itemsize
    zeros, buffer = bytes(_BLOCK_BYTES), bytearray(_BLOCK_BYTES + 64)
    for start in range(0, len(total), step):
        block = total[start : start + step]
        for other, pad in pads.items():
            pad.update_into(zeros[: block.nbytes], buffer)
            stream = np.frombuffer(buffer, dtype=total.dtype, count=len(block))
            if own < other:
                block += stream
            else:
                block -= stream
    return total


def _pad(secret: bytes, attempt: Attempt, own: str, other: str) -> CipherContext:
    """The pair is named: a liar that shows another's key as its own shares no pad with anyone."""
    context = asdict(attempt) | {"pair": sorted([own, other])}
    derived = HKDF(
        hashes.SHA256(), 32, salt=None, info=b"flo pad " + canonical.encode(context)
    ).derive(secret)
    return Cipher(ChaCha20(derived, bytes(16)), mode=None).encryptor()
