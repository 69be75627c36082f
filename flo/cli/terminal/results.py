"""Results of commands, as ``--json`` writes them; docs/json.md is generated from this module.

Results hold names, digests and numbers only: no secret (except the link of
``flo coordinator console``) and no patient data. Paths are as the user gave them. Times are
ISO 8601 in UTC. A change in a field's meaning raises ``schema_version``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from flo.errors import EXIT_OK, EXIT_REFUSED


@dataclass(frozen=True)
class CommandResult:
    """Fields that every command's result has."""

    schema_version: int = field(default=1, kw_only=True)

    def ends_in(self) -> int:
        """Return the command's exit code."""
        return 0


@dataclass(frozen=True)
class RefusalResult(CommandResult):
    """Result of a command that was refused or failed; ``exit_code`` as in README."""

    error: str
    what_to_do: str
    exit_code: int


@dataclass(frozen=True)
class FileWrittenResult(CommandResult):
    """``file``: the written file."""

    file: str


@dataclass(frozen=True)
class BackupWrittenResult(CommandResult):
    """``files``: number of files in it. ``keep_too``: key file that is not in it, if any."""

    file: str
    files: int
    keep_too: str | None


@dataclass(frozen=True)
class UnitResult(CommandResult):
    """``unit``: the text of a systemd unit."""

    unit: str


@dataclass(frozen=True)
class CheckedResult(CommandResult):
    """Result of ``flo doctor``, which exits with 3 if no round could run.

    ``findings``: each inspected item, its ``state`` (ok, warning, broken), the finding and the
    fix. ``could_run``: true if no finding is broken.
    """

    folder: str
    could_run: bool
    findings: list[DoctorFindingLine]

    def ends_in(self) -> int:
        """Return 0, or 3 if no round could run."""
        return EXIT_OK if self.could_run else EXIT_REFUSED


@dataclass(frozen=True)
class DoctorFindingLine:
    """``what``: the inspected item. ``says``: the finding. ``mend``: the fix; empty if ok."""

    what: str
    state: str
    says: str
    mend: str


# -- coordinator -----------------------------------------------------------------------------------


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
    """``coordinator``: the coordinator's fingerprint."""

    coordinator: str
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
    """``made``: time of the backup. ``let_in``: hospitals that are admitted again."""

    home: str
    made: str
    let_in: list[str]


# -- studies ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StudyCheckedResult(CommandResult):
    """``digest``: of the unsigned study; a signed study contains keys and has another digest.

    ``ways``: mechanisms that were tried on made-up patients; ``recommended``: changes to the
    mechanism; ``advised_against``: true if at this size no mechanism surely keeps enough AUC;
    null if no mechanism was tried, or if only a logistic model, which has less noise, was tried in
    place of a network and was not advised against.
    """

    study: str
    digest: str
    epsilon: float
    epsilon_pld: float
    delta: float
    sigma: float
    steps: int
    ways: list[dict[str, Any]]
    recommended: dict[str, Any] | None
    advised_against: bool | None


@dataclass(frozen=True)
class StudyStateResult(CommandResult):
    """``status``: planned (not sent), offered, running, paused, done, stopped or ended.

    ``result``: outcome of the run: rounds, epsilon, delta, estimate, subgroups, survey, model.
    """

    study: str
    version: int
    digest: str
    status: str
    place: str
    hospitals: list[str]
    approved: list[str]
    run: str | None
    result: dict[str, Any] | None


@dataclass(frozen=True)
class StudiesResult(CommandResult):
    """All studies that this coordinator signed, the oldest first."""

    studies: list[StudyStateResult]


@dataclass(frozen=True)
class StoppingResult(CommandResult):
    """Study that ends after the current round."""

    digest: str


@dataclass(frozen=True)
class ShreddedResult(CommandResult):
    """``removed``: number of erased files and objects."""

    digest: str
    removed: int


@dataclass(frozen=True)
class ExtractsSavedResult(CommandResult):
    """``hospitals``: hospitals whose signed extract is in the folder."""

    folder: str
    hospitals: list[str]


# -- site ------------------------------------------------------------------------------------------


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

    ``in_the_way``: findings that prevent an approval; ``known``: notes and accepted findings.
    """

    study: str
    records: int
    patients: int
    in_the_way: list[DataFindingLine]
    known: list[DataFindingLine]
    page: str | None

    def ends_in(self) -> int:
        """Return 0, or 3 if the data quality gate would refuse the data."""
        return EXIT_REFUSED if self.in_the_way else EXIT_OK


@dataclass(frozen=True)
class ApprovalResult(CommandResult):
    """``approved``: false while more people must approve, and for a ``dry_run``.

    ``takes``: shares of the life budget, by sub-ledger. ``people``: names of those who approved.
    """

    study: str
    digest: str
    approved: bool
    dry_run: bool
    takes: dict[str, float]
    people: list[str]
    needed: int


@dataclass(frozen=True)
class DecidedResult(CommandResult):
    """``decision``: refused or withdrawn. ``told``: whether the coordinator was notified."""

    digest: str
    decision: str
    told: bool


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
    """``populations``: life budget (ε, δ); spent, reserved, free shares by sub-ledger; studies."""

    populations: list[dict[str, Any]]
    schema_version: int = field(default=2, kw_only=True)


@dataclass(frozen=True)
class SiteRecoveredResult(CommandResult):
    """``studies``: approved since the backup; ``exhausted``: populations without budget left."""

    lost_rows: int
    studies: list[str]
    exhausted: list[str]


# -- audit -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PagesWrittenResult(CommandResult):
    """The report document and the HTML page made from it."""

    document: str
    page: str


@dataclass(frozen=True)
class VerifiedResult(CommandResult):
    """Verified facts of each file: reports by hospital, logs by owner, evidence by row counts."""

    reports: list[dict[str, Any]]
    logs: list[dict[str, Any]]
    evidence: list[dict[str, Any]]


@dataclass(frozen=True)
class LogShownResult(CommandResult):
    """``entries``: the latest ``--last`` entries. ``count``: number of entries in the whole log."""

    owner: str
    count: int
    entries: list[dict[str, Any]]


@dataclass(frozen=True)
class EvidenceWrittenResult(CommandResult):
    """``missing``: references of rows for which this installation has no evidence."""

    document: str
    page: str
    shown: int
    missing: list[str]


@dataclass(frozen=True)
class ReleaseCheckLine(CommandResult):
    """``p``: probability that a correct trainer gives this result or a worse one. ``seen``: whether
    the check could test the trainer; ``failed``: whether it refutes the trainer.
    """

    of: str
    name: str
    p: float
    failed: bool
    said: str
    seen: bool


@dataclass(frozen=True)
class AttackedResult(CommandResult):
    """Lower bound on ε from guesses about made-up patients, the claimed ε, and the results of the
    checks of noise, clip and coins.
    """

    checks: list[ReleaseCheckLine]
    claimed: float
    lower_bound: float
    confidence: float
    canaries: int
    guesses: int
    right: int
    private: bool = False


# -- models ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelLine:
    """Line of ``ModelsResult``. ``refused``: reason why the model is not trusted, if so."""

    model: str
    version: int | None
    epsilon: float | None
    auc: float | None
    made: str | None
    refused: str | None


@dataclass(frozen=True)
class ModelsResult(CommandResult):
    """Published models in a folder."""

    models: list[ModelLine]


@dataclass(frozen=True)
class ModelShownResult(CommandResult):
    """``card``: the signed card, after its checks."""

    card: dict[str, Any]


@dataclass(frozen=True)
class ModelFetchedResult(CommandResult):
    """``card``: path of the card; the tensors are in the same folder."""

    card: str


@dataclass(frozen=True)
class PredictedResult(CommandResult):
    """``records``: number of scored records."""

    file: str
    records: int


@dataclass(frozen=True)
class PackageStateResult(CommandResult):
    """``approval``: PendingManualApproval, Approved or Rejected; planned for a dry run."""

    package: str
    approval: str


@dataclass(frozen=True)
class PackageLine:
    """Line of ``PackagesResult``."""

    package: str
    approval: str
    epsilon: str
    run: str
    made: str


@dataclass(frozen=True)
class PackagesResult(CommandResult):
    """A study's packages in the registry, the newest first."""

    packages: list[PackageLine]


# -- AWS -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StackPlannedResult(CommandResult):
    """``changes``: action, name, type, replaced. ``dollars``: estimate per month, by service."""

    changes: list[dict[str, Any]]
    dollars: dict[str, float]


@dataclass(frozen=True)
class StackStateResult(CommandResult):
    """``status``: CloudFormation's, or gone. ``outputs``: values for coordinator.toml."""

    name: str
    status: str
    outputs: dict[str, str]


# -- on one machine --------------------------------------------------------------------------------


@dataclass(frozen=True)
class SimulatedResult(CommandResult):
    """Exact numbers, so never private. ``pooled`` and ``alone``: with ``--compare`` only.

    ``auc_interval``: 95 %, over the choice of test patients. ``auc_noise``: standard deviation of
    one model's AUC over repeated noise draws, with ``--redraws``. ``auc_pooled`` and ``auc_alone``:
    regressions without privacy, of all hospitals and of one, tested on the patients of all.
    ``auc_within``...: mean over hospitals, each tested on its own patients. ``sites``: for each
    hospital, ``patients``, ``positive`` patients, and AUCs among them. ``calibration``: the
    ``predicted`` and ``observed`` share of label 1, and the ``brier`` score. ``evaluation``: each
    run's own noisy estimate compared with the exact AUC of the same patients: ``level`` of its
    intervals, number of ``runs``, number whose interval ``covered`` the exact AUC, mean error
    (``bias``) and mean ``width``; null if no run published an estimate.
    """

    study: str
    digest: str
    auc: float
    auc_std: float
    auc_interval: list[float]
    auc_noise: float | None
    auc_within: float | None
    calibration: dict[str, float]
    evaluation: dict[str, float] | None
    epsilon: float
    delta: float
    trust_model: str
    masks: str
    rounds: int
    seconds_per_round: float
    seconds_total: float
    report: str | None
    sites: dict[str, Any]
    private: bool = False
    auc_pooled: float | None = None
    auc_alone: float | None = None
    auc_within_pooled: float | None = None
    auc_within_alone: float | None = None
    calibration_pooled: dict[str, float] | None = None


@dataclass(frozen=True)
class DemonstratedResult(CommandResult):
    """``seconds_from_launch``: from the offer of the study to the verified report."""

    status: str
    auc: float | None
    auc_interval: list[float] | None
    epsilon: float | None
    delta: float | None
    trust_model: str
    rounds: int | None
    report: str
    sites: dict[str, Any]
    seconds_per_round: float
    seconds_from_launch: float
    seconds_total: float
    private: bool = True


@dataclass(frozen=True)
class DataWrittenResult(CommandResult):
    """``credit``: source of the data, to be credited."""

    files: list[str]
    credit: str


@dataclass(frozen=True)
class MeasuredResult(CommandResult):
    """``rows``: group, name, flo, reference, ratio, unit, runs, how."""

    rows: list[dict[str, Any]]
