"""Results of `flo site` commands, as ``--json`` writes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from flo.cli.terminal.results import CommandResult
from flo.errors import EXIT_OK, EXIT_REFUSED


@dataclass(frozen=True)
class SiteMadeResult(CommandResult):
    """``epsilon``, ``delta``: the life budget. ``fingerprint``: of the site's identity key."""

    hospital: str
    home: str
    declared_size: int
    epsilon: float
    delta: float
    fingerprint: str


@dataclass(frozen=True)
class RegisteredResult(CommandResult):
    """``populations``: the populations that were new in site.toml."""

    populations: list[str]


@dataclass(frozen=True)
class SiteEnrolledResult(CommandResult):
    """Fingerprints of site and coordinator, to be compared by telephone."""

    hospital: str
    fingerprint: str
    coordinator: str


@dataclass(frozen=True)
class CoordinatorKeyResult(CommandResult):
    """``earlier``: fingerprints of the coordinator's earlier keys."""

    url: str
    fingerprint: str
    earlier: list[str]


@dataclass(frozen=True)
class LeftResult(CommandResult):
    """Hospital that has left; its certificate is revoked."""

    hospital: str


@dataclass(frozen=True)
class PartnersResult(CommandResult):
    """``confirmed``: fingerprint of each hospital, as compared by telephone."""

    confirmed: dict[str, str]


@dataclass(frozen=True)
class RosterLine:
    """Line of ``RosterResult``. ``confirmed``: this steward confirmed this key.

    ``confirmed_by``: hospitals with a confirmed key that signed that they confirmed it.
    """

    hospital: str
    fingerprint: str
    confirmed: bool
    confirmed_by: list[str]


@dataclass(frozen=True)
class RosterResult(CommandResult):
    """``roster``: its digest. ``elsewhere``: hospitals that signed another roster."""

    roster: str
    hospitals: list[RosterLine]
    elsewhere: list[str]


@dataclass(frozen=True)
class InboxLine:
    """Line of ``InboxResult``. ``status``: at the coordinator; ``here``: this site's decision."""

    name: str
    version: int
    digest: str
    epsilon: float
    expires: str
    status: str
    here: str


@dataclass(frozen=True)
class InboxResult(CommandResult):
    """Studies that name this hospital."""

    studies: list[InboxLine]


@dataclass(frozen=True)
class SheetResult(CommandResult):
    """``sections``: headings with (label, text) lines. ``page``: the HTML file, if requested."""

    study: str
    digest: str
    sections: list[dict[str, Any]]
    page: str | None


@dataclass(frozen=True)
class MappedResult(CommandResult):
    """``columns``: our fields for each column of the study; with ``--fields``, our fields only.

    ``open``: columns without a matching field. ``file``: the written mapping, if any.
    """

    file: str | None
    columns: dict[str, str | None]
    open: list[str]


@dataclass(frozen=True)
class DataFindingLine:
    """Finding in the data: a number of records, but no value; it stays at the hospital."""

    column: str
    rule: str
    count: int
    level: str


@dataclass(frozen=True)
class InspectedResult(CommandResult):
    """Result of ``flo site inspect``, which exits with 3 if an approval would be refused.

    ``blocking``: findings that prevent an approval; ``known``: notes and accepted findings.
    """

    study: str
    records: int
    patients: int
    blocking: list[DataFindingLine]
    known: list[DataFindingLine]
    page: str | None
    schema_version: int = field(default=2, kw_only=True)

    def ends_in(self) -> int:
        """Return 0, or 3 if the data quality gate would refuse the data."""
        return EXIT_REFUSED if self.blocking else EXIT_OK


@dataclass(frozen=True)
class ApprovalResult(CommandResult):
    """``approved``: false while more people must approve, and for a ``dry_run``.

    ``budget_shares``: shares of the life budget, by sub-ledger. ``people``: names of those who
    approved.
    """

    study: str
    digest: str
    approved: bool
    dry_run: bool
    budget_shares: dict[str, float]
    people: list[str]
    needed: int
    schema_version: int = field(default=2, kw_only=True)


@dataclass(frozen=True)
class DecidedResult(CommandResult):
    """``decision``: refused or withdrawn. ``notified``: whether the coordinator was notified."""

    digest: str
    decision: str
    notified: bool
    schema_version: int = field(default=2, kw_only=True)


@dataclass(frozen=True)
class HaltedResult(CommandResult):
    """``since``: time from which no data leave this hospital; null if it is not stopped."""

    since: str | None


@dataclass(frozen=True)
class PolicyShownResult(CommandResult):
    """``rules``: as in policy.toml; ``in_force``: false while more people must sign them."""

    digest: str
    in_force: bool
    rules: dict[str, Any]


@dataclass(frozen=True)
class PersonKeyResult(CommandResult):
    """``public``: key for [[people]] in policy.toml. The private key is in the file only."""

    file: str
    name: str
    role: str
    public: str


@dataclass(frozen=True)
class OptedOutResult(CommandResult):
    """``studies``: number of studies that the patient was removed from. ``known``: whether a data
    file contains the id; null if a file could not be read."""

    studies: int
    known: bool | None


@dataclass(frozen=True)
class ErasedResult(CommandResult):
    """``contributions``: study, releases, ε, and the largest factor by which odds can change.

    ``known``: as in ``OptedOutResult``. ``unknown``: studies whose members cannot be looked up.
    """

    record: str
    known: bool | None
    contributions: list[dict[str, Any]]
    unknown: list[str]


@dataclass(frozen=True)
class BudgetResult(CommandResult):
    """``populations``: life budget (ε, δ); spent, reserved, free shares by sub-ledger; studies.

    The shares are those of the generation of patients that spent most. ``generations``: of each.
    ``rooms``: for typical ε, in how many generations it fits. Patients are in wide bands.
    """

    populations: list[dict[str, Any]]
    schema_version: int = field(default=2, kw_only=True)


@dataclass(frozen=True)
class NewPatientsResult(CommandResult):
    """``listed``: ids on the population's list of patients who came after a recovery."""

    population: str
    listed: int


@dataclass(frozen=True)
class SiteRecoveredResult(CommandResult):
    """``studies``: approved since the backup; ``exhausted``: populations without budget left."""

    lost_rows: int
    studies: list[str]
    exhausted: list[str]


@dataclass(frozen=True)
class EncodersResult(CommandResult):
    """``encoders``: digests of the encoders that were listed, or of the one installed."""

    encoders: list[str]
