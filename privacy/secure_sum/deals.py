"""Deals: a hospital's secrets for one request, shared out among all hospitals before it.

Step 9 of the protocol in ``flo.privacy.secure_sum.masking``. A deal is for one ``Turn``: a purpose,
round and attempt, in which a hospital takes part once. The secrets are a fresh X25519 key, for the
pads of this turn only, and the first seed of a chain (``flo.privacy.secure_sum.components``). They
are held in memory only. Each of them is split with the study's threshold; a holder gets one share
of each, encrypted with ChaCha20-Poly1305 (RFC 8439).

The key of that encryption is HKDF-SHA256 of the secret of the two run keys and of all that
identifies the deal: study, run, turn, its number, the dealer's and then the holder's run key. It is
used for one message, and the public half of the fresh key is authenticated with it. So what
decrypts was dealt by the hospital of that run key, to this holder, in this direction, for this
turn. The dealer also signs the public half for the turn, with the Ed25519 half of its run key: so
shares which do not decrypt cost the holder nothing else.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from flo.documents import canonical
from flo.errors import TrustError
from flo.keys.claims import RunKey
from flo.privacy.secure_sum.components import SEED_BYTES, seed_after
from flo.privacy.secure_sum.sharing import PRIME, combine, split
from flo.protocol.deals import CHECK_BYTES, Deal, DealtKey
from flo.protocol.messages import RequestHeader
from flo.study.document import Study

_NONCE = bytes(12)  # a key encrypts one message
_BYTES = 32  # of a key, a seed or a share


@dataclass(frozen=True)
class Turn:
    """The request that a deal is for. A hospital takes part in it once, or not at all."""

    study: str
    run: str
    purpose: str
    round: int
    attempt: int


def turn_of(header: RequestHeader) -> Turn:
    """Return the turn that a request is about: a join, the next one."""
    return Turn(header.study, header.run, header.purpose, header.round, header.attempt)


def turn_after(study: Study, header: RequestHeader) -> Turn | None:
    """Return the turn that follows a release if its attempt does not fail; None after the last."""
    if header.purpose == "training" and header.round < study.mechanism.steps:
        following: tuple[str, int] = ("training", header.round + 1)
    else:
        later = study.purposes[study.purposes.index(header.purpose) + 1 :]
        if not later:
            return None
        following = (later[0], 1)
    return Turn(header.study, header.run, *following, 1)


def numbers_of(study: Study) -> dict[str, int]:
    """Return each hospital's number as a holder of shares: its place in the study, from 1."""
    return {hospital.id: place for place, hospital in enumerate(study.hospitals, start=1)}


@dataclass(frozen=True)
class Secrets:
    """What a dealer knows: the private key of its pads, and its chain of seeds."""

    private: bytes = field(repr=False)
    seeds: tuple[bytes, ...] = field(repr=False)

    @classmethod
    def new(cls, seeds: int) -> Secrets:
        """Draw a key and the first seed from the operating system; derive the other seeds."""
        private, first = _number(), _number()
        return cls(private, tuple(seed_after(first, steps) for steps in range(seeds)))

    @property
    def key(self) -> X25519PrivateKey:
        """The private key."""
        return X25519PrivateKey.from_private_bytes(self.private)

    @property
    def public(self) -> str:
        """The public half of the key, hexadecimal."""
        return public_half(self.private)

    def all(self) -> tuple[bytes, ...]:
        """Return the key, then the seeds: the order of all shares."""
        return (self.private, *self.seeds)


@dataclass(frozen=True)
class Holder:
    """A hospital that gets shares: its number, its run key, and what encrypts them for it."""

    number: int
    run_key: str
    key: bytes = field(repr=False)


@dataclass(frozen=True)
class HeldShares:
    """A holder's shares of one deal: of the private key, and of each seed; 32 bytes each."""

    of_key: bytes = field(repr=False)
    of_seeds: tuple[bytes, ...] = field(repr=False)


def sealing_key(secret: bytes, turn: Turn, number: int, by: RunKey, to: RunKey) -> bytes:
    """Return the key that encrypts the shares of deal ``number`` from ``by`` to ``to``.

    ``secret``: of the pair of run keys (``flo.privacy.secure_sum.masking.pair_secret``).
    """
    context = asdict(turn) | {
        "number": number,
        "by": [by.fingerprint, by.key],
        "to": [to.fingerprint, to.key],
    }
    info = b"flo deal " + canonical.encode(context)
    return HKDF(hashes.SHA256(), _BYTES, salt=None, info=info).derive(secret)


def deal(
    turn: Turn,
    number: int,
    made: Secrets,
    threshold: int,
    own: tuple[str, int],
    holders: Mapping[str, Holder],
    by: RunKey,
    signer: Ed25519PrivateKey,
) -> tuple[Deal, HeldShares]:
    """Share ``made`` out; return the deal to send, and the dealer's own shares.

    ``number`` must be new for the run key ``by``, of which ``signer`` is the Ed25519 half. ``own``:
    name and number of the dealer, who is not among the ``holders``.
    """
    numbers = dict([own]) | {name: holder.number for name, holder in holders.items()}
    split_up = [split(int.from_bytes(one), threshold, numbers.values()) for one in made.all()]
    shares = {
        name: [part[holder].to_bytes(_BYTES) for part in split_up]
        for name, holder in numbers.items()
    }
    checks = {
        name: "".join(check(numbers[name], place, one).hex() for place, one in enumerate(each))
        for name, each in shares.items()
    }
    sealed = {
        holder.run_key: ChaCha20Poly1305(holder.key)
        .encrypt(_NONCE, b"".join(shares[name]), bytes.fromhex(made.public))
        .hex()
        for name, holder in holders.items()
    }
    dealt = Deal(
        number=number,
        key=made.public,
        signature=signer.sign(_statement(turn, number, made.public, by)).hex(),
        commitments=tuple(commitment(seed) for seed in made.seeds),
        checks=checks,
        sealed=sealed,
    )
    of_key, *of_seeds = shares[own[0]]
    return dealt, HeldShares(of_key, tuple(of_seeds))


def check_signature(turn: Turn, dealt: DealtKey, by: RunKey) -> None:
    """Refuse a dealt key that the hospital of this run key did not sign for this turn.

    Raises:
        TrustError: the signature does not match, or the run key signs no deals.
    """
    try:
        if by.deals is None:
            raise TrustError("this run key signs no deals")
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(by.deals))
        statement = _statement(turn, dealt.number, dealt.key, by)
        key.verify(bytes.fromhex(dealt.signature), statement)
    except (InvalidSignature, ValueError) as error:
        raise TrustError(f"deal {dealt.number} is not signed for this request") from error


def _statement(turn: Turn, number: int, key: str, by: RunKey) -> bytes:
    dealt = {"number": number, "key": key, "by": by.fingerprint}
    return b"flo deal " + canonical.encode(asdict(turn) | dealt)


def unseal(key: bytes, dealt: DealtKey, sealed: str, seeds: int) -> HeldShares:
    """Decrypt one's own shares of a deal. ``key``: see ``sealing_key``.

    The dealt key is authenticated with them: only its dealer and we can have made what decrypts.

    Raises:
        TrustError: they do not decrypt, or are not of a key and ``seeds`` seeds.
    """
    try:
        plain = ChaCha20Poly1305(key).decrypt(
            _NONCE, bytes.fromhex(sealed), bytes.fromhex(dealt.key)
        )
    except (InvalidTag, ValueError) as error:
        raise TrustError("the shares do not decrypt") from error
    if len(plain) != _BYTES * (1 + seeds):
        raise TrustError(f"the deal does not have {seeds} seeds")
    of_key, *of_seeds = (plain[start : start + _BYTES] for start in range(0, len(plain), _BYTES))
    return HeldShares(of_key, tuple(of_seeds))


def check(holder: int, place: int, share: bytes) -> bytes:
    """Return the hash by which the coordinator tells a right share: of the key (place 0), a seed.

    A share is uniform among 2^255 numbers, so its hash gives it away to nobody.
    """
    head = b"flo share " + holder.to_bytes(4) + place.to_bytes(4)
    return hashlib.sha256(head + share).digest()[:CHECK_BYTES]


def commitment(seed: bytes) -> str:
    """Return the hash that a deal shows of a seed."""
    return hashlib.sha256(b"flo commitment " + seed).hexdigest()


def public_half(private: bytes) -> str:
    """Return the public half of an X25519 key, hexadecimal."""
    key = X25519PrivateKey.from_private_bytes(private).public_key()
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw).hex()


def opened(dealt: Deal, place: int, shares: Mapping[int, bytes], threshold: int) -> bytes:
    """Return a dealt secret (place 0: the key; from 1 on: seeds) from right shares.

    Raises:
        TrustError: fewer than ``threshold`` shares, or the dealer did not deal what it shows.
    """
    if len(shares) < threshold:
        raise TrustError(f"{len(shares)} shares, {threshold} needed")
    chosen = {number: int.from_bytes(shares[number]) for number in sorted(shares)[:threshold]}
    secret = combine(chosen).to_bytes(_BYTES)
    shown = dealt.key if place == 0 else dealt.commitments[place - 1]
    if (public_half(secret) if place == 0 else commitment(secret)) != shown:
        raise TrustError(f"deal {dealt.number} was not dealt as it shows")
    return secret


def _number() -> bytes:
    return secrets.randbelow(PRIME).to_bytes(SEED_BYTES)
