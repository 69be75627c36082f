"""Rotation of the coordinator's key, as steps that both the old and the new key signed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from flo.documents import canonical
from flo.documents.document import Document, parse
from flo.keys.claims import PublicKey, Signature
from flo.keys.identity import Identity, verify

_LIMIT = 1 << 20


class RotationStep(Document):
    """One rotation. ``old`` and ``new``: public keys (DER, hexadecimal)."""

    old: PublicKey
    new: PublicKey
    time: Annotated[str, StringConstraints(max_length=40)]
    old_signature: Signature
    new_signature: Signature

    @classmethod
    def signed(cls, old: Identity, new: Identity, time: str) -> RotationStep:
        """Sign the step with both keys."""
        statement = _statement(old.public.hex(), new.public.hex(), time)
        return cls(
            old=old.public.hex(),
            new=new.public.hex(),
            time=time,
            old_signature=old.sign("succession", statement),
            new_signature=new.sign("succession", statement),
        )

    def check(self) -> None:
        """Raise TrustError unless both keys signed this step."""
        statement = _statement(self.old, self.new, self.time)
        verify(bytes.fromhex(self.old), "succession", statement, self.old_signature)
        verify(bytes.fromhex(self.new), "succession", statement, self.new_signature)


class KeyRotation(Document):
    """Steps from the first key to the current one."""

    schema_version: Literal[1] = 1
    steps: Annotated[tuple[RotationStep, ...], Field(max_length=1000)]

    @classmethod
    def read(cls, data: bytes) -> KeyRotation:
        """Parse steps without checking signatures. Raises MessageError or UsageError."""
        document = canonical.decode(data, limit=_LIMIT, what="succession of keys")
        return parse(cls, document, "succession of keys")

    def newest_after(self, public: str) -> str:
        """Return the last key that follows ``public`` over valid steps; ``public`` if none does.

        Raises:
            TrustError: a step after it is not signed by both keys.
        """
        for step in self.steps:
            if step.old == public:
                step.check()
                public = step.new
        return public


def _statement(old: str, new: str, time: str) -> bytes:
    return canonical.encode({"old": old, "new": new, "time": time})
