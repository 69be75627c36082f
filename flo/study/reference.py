"""Resolve a reference to a study: NAME, NAME:VERSION, or the start of its digest. Never a guess."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from flo.errors import UsageError
from flo.study.document import Study

_FEWEST_DIGITS = 6  # of a digest


@dataclass(frozen=True)
class Known:
    """One study that a reference could match. ``more``: extra text, such as its status."""

    name: str
    version: int
    digest: str
    more: str = ""

    @classmethod
    def of(cls, study: Study, more: str = "") -> Known:
        """Create the entry of a study."""
        return cls(study.name, study.version, study.digest, more)

    def is_called(self, wanted: str) -> bool:
        """Return whether the reference matches this study; it may match others too."""
        by_digest = len(wanted) >= _FEWEST_DIGITS and self.digest.startswith(wanted)
        return by_digest or wanted in (self.name, f"{self.name}:{self.version}")

    def __str__(self) -> str:
        more = f", {self.more}" if self.more else ""
        return f"{self.name}:{self.version} ({self.digest[:12]}{more})"


def is_digest(wanted: str | None, digest: str) -> bool:
    """Return whether ``wanted`` is this digest, or its first twelve digits or more."""
    return wanted is not None and len(wanted) >= 12 and digest.startswith(wanted)


def which(known: Iterable[Known], wanted: str | None, here: str) -> str:
    """Return the digest of the only match. ``wanted``: None for the only study there is.

    ``here``: a description of the studies for the error, such as "study approved here".

    Raises:
        UsageError: no study matches, or several do; the error lists them.
    """
    different = {one.digest: one for one in known}.values()
    found = [one for one in different if wanted is None or one.is_called(wanted)]
    if len(found) == 1:
        return found[0].digest
    if not found:
        named = f" called {wanted!r}" if wanted else ""
        raise UsageError(f"no {here}{named}", hint=f"known: {_listed(different)}")
    hint = "name one as NAME:VERSION, or by the start of its digest"
    raise UsageError(f"several studies match: {_listed(found)}", hint=hint)


def _listed(several: Iterable[Known]) -> str:
    return ", ".join(map(str, several)) or "none"
