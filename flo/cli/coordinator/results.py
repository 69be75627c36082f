"""Results of `flo coordinator` commands, as ``--json`` writes them."""

from __future__ import annotations

from dataclasses import dataclass, field

from flo.cli.terminal.results import CommandResult


@dataclass(frozen=True)
class CoordinatorMadeResult(CommandResult):
    """``fingerprint``: of the coordinator's identity key."""

    home: str
    fingerprint: str


@dataclass(frozen=True)
class InvitedResult(CommandResult):
    """``replaces``: true if using the invitation replaces a hospital that is enrolled."""

    hospital: str
    file: str
    days: int
    replaces: bool


@dataclass(frozen=True)
class RevokedResult(CommandResult):
    """Hospital that is refused from its next request on."""

    hospital: str


@dataclass(frozen=True)
class HospitalLine:
    """Line of ``HospitalsResult``."""

    hospital: str
    fingerprint: str
    revoked: bool


@dataclass(frozen=True)
class HospitalsResult(CommandResult):
    """``coordinator``: the coordinator's fingerprint. ``roster``: the roster's digest."""

    coordinator: str
    roster: str
    hospitals: list[HospitalLine]


@dataclass(frozen=True)
class TokenWrittenResult(CommandResult):
    """``may``: actions that the role allows. The token is in the file only."""

    file: str
    name: str
    role: str
    hours: float
    may: list[str]


@dataclass(frozen=True)
class ConsoleLinkResult(CommandResult):
    """``link`` signs in anyone who opens it, like a password. ``certificate``: its SHA-256."""

    link: str
    hours: float | None
    certificate: str | None


@dataclass(frozen=True)
class RewrappedResult(CommandResult):
    """``secrets``: number of secrets that were sealed again."""

    secrets: int


@dataclass(frozen=True)
class KeyReplacedResult(CommandResult):
    """``fingerprint``: of the new identity key."""

    fingerprint: str


@dataclass(frozen=True)
class CoordinatorRestoredResult(CommandResult):
    """``made``: time of the backup. ``readmitted``: hospitals that are admitted again."""

    home: str
    made: str
    readmitted: list[str]
    schema_version: int = field(default=2, kw_only=True)
