"""Signed claims of a site: ledger head, run key, head attestation (voucher), list of survivors.

Each claim carries the signer's public key. A receiver that knows the signer's fingerprint from the
study can verify the claim, whichever party delivered it. A claim contains no patient data.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
)

from flo.documents import canonical
from flo.documents.document import Document
from flo.errors import TrustError
from flo.keys.identity import Identity, fingerprint, verify

LARGEST_COUNT = 1 << 53

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Signature = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{1,300}$")]
PublicKey = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{2}){1,200}$")]


class Claim(Document):
    """A signed statement. ``public``: the signer's key (DER, hexadecimal)."""

    public: PublicKey
    signature: Signature

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the signer's key. The signature is not checked."""
        return fingerprint(bytes.fromhex(self.public))

    def _check(self, signer: str, purpose: str, statement: bytes) -> None:
        if self.fingerprint != signer:
            raise TrustError(f"this {purpose} is signed by another key than the study names")
        verify(bytes.fromhex(self.public), purpose, statement, self.signature)


class LedgerHead(Claim):
    """Signed head of a ledger: the number of its last row, and that row's hash."""

    sequence: Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
    hash: Digest

    def check(self, signer: str) -> None:
        """Raise TrustError unless the key of fingerprint ``signer`` signed this claim."""
        self._check(signer, "ledger-row", row_statement(self.sequence, self.hash))


class RunKey(Claim):
    """A hospital's signed keys for one run, in use from ``epoch`` on; hexadecimal.

    ``key``: X25519. ``deals``: Ed25519, which signs what the hospital deals; None in runs that were
    begun by a FLO without deals. Epochs increase: of two keys of one hospital for one run, the
    later one has the larger epoch.
    """

    epoch: Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
    key: Digest
    deals: Digest | None = None

    @model_serializer(mode="wrap")
    def _as_before_deals(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave ``deals`` out if it is None: earlier versions refuse fields they do not know."""
        document: dict[str, Any] = serialize(self)
        if self.deals is None:
            document.pop("deals", None)
        return document

    @classmethod
    def signed(
        cls,
        identity: Identity,
        study: str,
        run: str,
        epoch: int,
        key: str,
        deals: str | None = None,
    ) -> RunKey:
        """Sign the public halves for this run and epoch."""
        signature = identity.sign("run-key", _run_key_statement(study, run, epoch, key, deals))
        public = identity.public.hex()
        return cls(epoch=epoch, key=key, deals=deals, public=public, signature=signature)

    def check(self, study: str, run: str, signer: str) -> None:
        """Raise TrustError unless the key of fingerprint ``signer`` signed it for this run."""
        statement = _run_key_statement(study, run, self.epoch, self.key, self.deals)
        self._check(signer, "run-key", statement)


class HeadAttestation(Claim):
    """Signed voucher: the highest ledger head that the signer has seen of one hospital.

    The voucher names the hospital's run key. A run key is new after every start, so a voucher
    answers that start and no earlier one. ``hospital``: fingerprint of the hospital's identity key.
    ``head`` carries the hospital's own signature, so the signer of the voucher cannot forge it;
    None if the signer has seen no head.
    """

    hospital: Digest
    key: Digest
    head: LedgerHead | None

    @classmethod
    def given(
        cls, identity: Identity, study: str, run: str, key: RunKey, head: LedgerHead | None
    ) -> HeadAttestation:
        """Sign a voucher for the head that ``identity`` has seen of the hospital with this key."""
        statement = _voucher_statement(study, run, key.fingerprint, key.key, head)
        return cls(
            hospital=key.fingerprint,
            key=key.key,
            head=head,
            public=identity.public.hex(),
            signature=identity.sign("voucher", statement),
        )

    def check(self, study: str, run: str, signer: str) -> None:
        """Raise TrustError unless ``signer`` signed it for this run, and ``hospital`` its head."""
        if self.head is not None:
            self.head.check(self.hospital)
        statement = _voucher_statement(study, run, self.hospital, self.key, self.head)
        self._check(signer, "voucher", statement)


class ListSignature(Claim):
    """A hospital's signature under a list of the survivors of one attempt."""

    @classmethod
    def signed(cls, identity: Identity, statement: bytes) -> ListSignature:
        """Sign the statement of ``flo.privacy.secure_sum.survivors``."""
        return cls(public=identity.public.hex(), signature=identity.sign("survivors", statement))

    def check(self, signer: str, statement: bytes) -> None:
        """Raise TrustError unless the key of fingerprint ``signer`` signed this statement."""
        self._check(signer, "survivors", statement)


def row_statement(sequence: int, row_hash: str) -> bytes:
    """Return the bytes that a site signs for a ledger row, or a log's owner for an audit entry."""
    return f"{sequence} {row_hash}".encode()


def _run_key_statement(study: str, run: str, epoch: int, key: str, deals: str | None) -> bytes:
    named = {"study": study, "run": run, "epoch": epoch, "key": key}
    return canonical.encode(named if deals is None else named | {"deals": deals})


def _voucher_statement(
    study: str, run: str, hospital: str, key: str, head: LedgerHead | None
) -> bytes:
    seen = None if head is None else [head.sequence, head.hash]
    return canonical.encode(
        {"study": study, "run": run, "hospital": hospital, "key": key, "head": seen}
    )
