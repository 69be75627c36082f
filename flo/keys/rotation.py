"""How one coordinator key is followed by the next: steps that both keys signed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from flo.documents import canonical
from flo.documents.document import Document, parse
from flo.keys.claims import PublicKey, Signature
from flo.keys.identity import Identity, verify

_LIMIT = 1 << 20


class RotationStep(Document):
    """``old`` and ``new``: public keys (DER, hexadecimal)."""

    old: PublicKey
    new: PublicKey
    time: Annotated[str, StringConstraints(max_length=40)]
    old_signature: Signature
    new_signature: Signature

    @classmethod
    def signed(cls, old: Identity, new: Identity, time: str) -> RotationStep:
        """Both keys sign the step: the old one lets go, the new one takes over."""
        statement = _statement(old.public.hex(), new.public.hex(), time)
        return cls(
            old=old.public.hex(),
            new=new.public.hex(),
            time=time,
            old_signature=old.sign("succession", statement),
            new_signature=new.sign("succession", statement),
        )

    def check(self) -> None:
        """Raises TrustError unless both keys signed this step."""
        statement = _statement(self.old, self.new, self.time)
        verify(bytes.fromhex(self.old), "succession", statement, self.old_signature)
        verify(bytes.fromhex(self.new), "succession", statement, self.new_signature)


class KeyRotation(Document):
    """Steps from the first key to the present one."""

    schema_version: Literal[1] = 1
    steps: Annotated[tuple[RotationStep, ...], Field(max_length=1000)]

    @classmethod
    def read(cls, data: bytes) -> KeyRotation:
        """Parse steps; ``check`` says whether they hold. Raises MessageError or UsageError."""
        document = canonical.decode(data, limit=_LIMIT, what="succession of keys")
        return parse(cls, document, "succession of keys")

    def newest_after(self, public: str) -> str:
        """The last key that follows ``public``, over steps that hold; itself if none does.

        Raises:
            TrustError: a step behind it is not signed by both keys.
        """
        for step in self.steps:
            if step.old == public:
                step.check()
                public = step.new
        return public


def _statement(old: str, new: str, time: str) -> bytes:
    return canonical.encode({"old": old, "new": new, "time": time})
