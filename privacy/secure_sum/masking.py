"""Secure sums: pairwise masks that cancel only in the sum of a whole cohort. The protocol.

Docstrings here and in the modules named below cite these step numbers.

    1. At the start of a run, and after every start of its agent, a hospital generates a fresh
       X25519 key and signs it with its identity key, bound to study, run and an epoch larger than
       that of all its earlier keys (``flo.clients.agent.run_keys``). The key is held in memory
       only.
    2. A run key is accepted only under the fingerprint that the approved study names for its
       hospital, whatever certificate it came with; of two keys of a hospital, the one with the
       later epoch counts. After a start, a hospital releases no result before a partner has
       vouched for the head of its ledger (``flo.clients.agent.partners``).
    3. Two hospitals share a secret: X25519 of their run keys (RFC 7748).
    4. For one attempt the pair's pad is a ChaCha20 stream (RFC 8439). Its key is HKDF-SHA256 (RFC
       5869) of the secret, the pair's fingerprints, and all that identifies the attempt: study,
       run, purpose, round, attempt, cohort digest, model digest, ring, length. The cohort digest
       covers the members, their keys and their ledger heads. No pad is used twice.
    5. Of a pair, the hospital with the smaller fingerprint adds the pad and the other subtracts it,
       in the ring of ``flo.privacy.secure_sum.ring``. The masked values already contain noise
       (``Mechanism.release``).
    6. The hospital writes and flushes the encrypted reply, commits the ledger row that names its
       digest, and only then sends. A repeated request gets the same bits; a differing request for
       an attempt that was answered is refused (``flo.clients.agent.handler``).
    7. If all replies to an attempt arrive, the pads cancel and leave the noisy sum. A sum larger
       than honest hospitals could reach is discarded (``flo.server.rounds.aggregation``,
       ``rounds``).
    8. If a reply is missing, the others are uniformly random and are discarded. A new attempt names
       the remaining hospitals, never fewer than the study's floor (``flo.server.rounds.loop``).
       With distributed noise every attempt draws fresh noise and is charged; with local noise the
       same noisy vector is sent under the new attempt's pads, at charge 0.

Where a study's sums survive dropouts (``flo.study.tolerance``), a *turn* is one purpose, round and
attempt, and these steps take the place of 3 to 5, 7 and 8:

    9. Before a turn, a hospital draws an X25519 key and a chain of seeds for it. It signs the
       public key for this turn, and deals shares of key and seeds to all hospitals whose run keys
       it was shown (``flo.privacy.secure_sum.deals``). They are held in memory only.
    10. An attempt names one deal of each member in its cohort digest. Pads are those of 4, from the
       dealt keys. Besides its base share of the noise a hospital adds one component for each higher
       level of missing hospitals (``components``), and a self mask from the last seed. It uses its
       deal up, and goes on with 6. It takes part in a turn once.
    11. The coordinator saves the list of those whose upload arrived, and names it. A hospital acts
       on one list of an attempt, in the process that uploaded, and only if it is on the list and at
       most d hospitals are missing from it. Under the list of the whole cohort it goes on with 13;
       any other list it signs (``survivors``).
    12. The signatures of q = ⌊(N + b)/2⌋ + 1 survivors under one list are its certificate.
    13. Under the list of the whole cohort, or a certified list, a hospital reveals its share of one
       secret of each member: of a survivor the seed of the list's level, of a missing hospital the
       key (``flo.clients.agent.dealing``).
    14. From q right shares of each secret the coordinator removes the self masks, the pads between
       survivors and missing hospitals, and the components above the level (``unmasking``). If more
       than d hospitals are missing, or too few answer, all deal again for a new attempt.

Why 9 to 14 open one sum at most. Two sets of q hospitals share an honest one. It signs one list,
and reveals one share of each member's secrets in a turn: so one list is certified or the whole
cohort is opened, never both; and of a hospital's secrets for a turn one is opened, the key or a
seed. What a hospital uploads is hidden by its self mask unless its seed is opened, and then by its
pads with all other honest survivors. So only their sum is read, with the noise of the level. A
hospital that was told of another cohort in the same turn stays hidden: to read its upload, q
hospitals would have to be missing or colluding, and d + b < q.

Guarantee: computational (X25519, HKDF, ChaCha20), against the coordinator and any hospitals that
collude with it, for the sum of the others. A hospital cannot detect a false dropout, or two cohorts
shown to two hospitals. But pads of different attempts or cohorts never cancel, so the joint view is
uniform except for sums over whole cohorts. With distributed noise each of these sums has fresh
noise and is charged by every member. With local noise they contain the same noisy vectors, so a
coordinator that claims a false dropout learns the difference, one hospital's noisy vector: that is
private by its own noise and was charged once. This module adds no noise, uses no network and stores
no data.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from flo.arrays import Integers
from flo.documents import canonical
from flo.errors import TrustError
from flo.keys.claims import LedgerHead, RunKey
from flo.keys.identity import Identity
from flo.privacy.secure_sum.ring import Int32Array, Masked, to_ring
from flo.protocol.deals import DealtKey
from flo.protocol.messages import RINGS, RequestHeader

_BLOCK_BYTES = 1 << 18  # of a pad per step, so that all arrays fit the cache


def new_run_key(
    identity: Identity, study: str, run: str, epoch: int, *, deals: bool = True
) -> tuple[X25519PrivateKey, RunKey]:
    """Generate a key for one run; return it with the signed public half to send. [1]

    ``deals``: also with the key that signs deals, which earlier versions of FLO do not know.
    """
    private = X25519PrivateKey.generate()
    signer = _public(deal_signer(private)) if deals else None
    return private, RunKey.signed(identity, study, run, epoch, _public(private), signer)


def deal_signer(private: X25519PrivateKey) -> Ed25519PrivateKey:
    """Return the key that signs deals, derived from the private half of a run key."""
    raw = private.private_bytes_raw()
    derive = HKDF(hashes.SHA256(), 32, salt=None, info=b"flo deal signer").derive
    return Ed25519PrivateKey.from_private_bytes(derive(raw))


def _public(private: X25519PrivateKey | Ed25519PrivateKey) -> str:
    return private.public_key().public_bytes_raw().hex()


def pair_secret(own: X25519PrivateKey, other: RunKey) -> bytes:
    """Return the secret of a pair of run keys. [3] Raises TrustError as ``exchange``."""
    return exchange(own, other.key)


def exchange(own: X25519PrivateKey, public: str) -> bytes:
    """Return the X25519 secret with a public key (hexadecimal).

    Raises:
        TrustError: the key is of low order, so the secret would be known to all.
    """
    try:
        return own.exchange(X25519PublicKey.from_public_bytes(bytes.fromhex(public)))
    except ValueError as error:
        raise TrustError("a key is not a usable X25519 key") from error


def cohort_digest(members: Iterable[tuple[RunKey, LedgerHead, DealtKey | None]]) -> str:
    """Hash an attempt's sorted members with SHA-256: fingerprint, run key, epoch, head, and deal.

    Heads are included to prevent showing a hospital an old one: pads cancel only if every hospital
    was shown the same heads, and each hospital checks that its own is current. Deals are left out
    where there are none.
    """
    named = sorted(
        [
            *(key.fingerprint, key.key, key.epoch, head.sequence, head.hash),
            *((dealt.number, dealt.key) if dealt else ()),
        ]
        for key, head, dealt in members
    )
    return canonical.digest(canonical.encode(named))


def attempt_of(header: RequestHeader, ring: int, length: int) -> Attempt:
    """Return the attempt that a request for a release asks for. Raises KeyError as ``members``."""
    return Attempt(
        study=header.study,
        run=header.run,
        purpose=header.purpose,
        round=header.round,
        attempt=header.attempt,
        cohort=cohort_digest(header.members()),
        model=header.model,
        ring=ring,
        length=length,
    )


@dataclass(frozen=True)
class Attempt:
    """Fields that identify one attempt, and therefore its pads. [4]"""

    study: str
    run: str
    purpose: str
    round: int
    attempt: int
    cohort: str
    model: str
    ring: int
    length: int

    def derive(self, label: bytes, context: Mapping[str, Any], secret: bytes) -> bytes:
        """Return 32 bytes for one use in this attempt: HKDF-SHA256 (RFC 5869) of a secret."""
        info = label + canonical.encode(asdict(self) | dict(context))
        return HKDF(hashes.SHA256(), 32, salt=None, info=info).derive(secret)


def masked(
    values: Integers | Int32Array, own: str, secrets: dict[str, bytes], attempt: Attempt
) -> Masked:
    """Return a copy of ``values`` (length,) in the ring, masked as ``add_masks`` does."""
    total = to_ring(values, attempt.ring)
    add_masks(total, own, secrets, attempt)
    return total


def add_masks(
    total: Masked, own: str, secrets: dict[str, bytes], attempt: Attempt, seed: bytes | None = None
) -> None:
    """Add the pads with every partner to ``total`` (length,), in place, and the mask of ``seed``.

    ``own`` and the keys of ``secrets`` are identity fingerprints.

    Raises:
        ValueError: ``total`` has another length or ring, or ``secrets`` is empty or contains
            ``own``.
    """
    if total.shape != (attempt.length,) or total.dtype != RINGS[attempt.ring]:
        raise ValueError(
            f"{total.dtype} of shape {total.shape} for an attempt of {attempt.length} in a ring of "
            f"2^{attempt.ring}"
        )
    if not secrets or own in secrets:
        raise ValueError("a mask needs the secrets of one or more partners, and not our own")
    streams = pads(own, secrets, attempt)
    if seed is not None:
        streams.append((self_mask(seed, attempt), True))
    add(total, streams)


Stream = tuple[CipherContext, bool]  # and whether it is added; else it is subtracted


def pads(own: str, secrets: Mapping[str, bytes], attempt: Attempt) -> list[Stream]:
    """Return what ``own`` masks with: a pad for each partner of whom it knows the secret."""
    return [(_pad(secret, attempt, own, other), own < other) for other, secret in secrets.items()]


def self_mask(seed: bytes, attempt: Attempt) -> CipherContext:
    """Return the stream of a hospital's own mask, from the last seed of its chain."""
    return key_stream(attempt.derive(b"flo self mask ", {}, seed))


def add(total: Masked, streams: Iterable[Stream]) -> None:
    """Add streams to ``total``, or subtract them, in place and in its ring."""
    streams = list(streams)
    step = _BLOCK_BYTES // total.itemsize
    zeros, buffer = bytes(_BLOCK_BYTES), bytearray(_BLOCK_BYTES + 64)
    for start in range(0, len(total), step):
        block = total[start : start + step]
        for stream, added in streams:
            stream.update_into(zeros[: block.nbytes], buffer)
            words = np.frombuffer(buffer, dtype=total.dtype, count=len(block))
            if added:
                block += words
            else:
                block -= words


def _pad(secret: bytes, attempt: Attempt, own: str, other: str) -> CipherContext:
    """Return the pad's key stream, derived from the attempt and both fingerprints.

    A hospital that presents another's run key as its own therefore shares no pad with any partner.
    """
    return key_stream(attempt.derive(b"flo pad ", {"pair": sorted([own, other])}, secret))


def key_stream(key: bytes) -> CipherContext:
    """Return the ChaCha20 stream of a key that is used once."""
    return Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()
