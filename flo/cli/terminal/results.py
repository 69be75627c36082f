"""What commands return, as ``--json`` writes it; docs/json.md is made from this module.

Names, digests and numbers only: no secret, and nothing of a patient. Paths are as they were given.
Times are ISO 8601 in UTC. A field that changes its meaning raises ``schema_version``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from flo.errors import EXIT_OK, EXIT_REFUSED


@dataclass(frozen=True)
class CommandResult:
    """Of every command."""

    schema_version: int = field(default=1, kw_only=True)

    def ends_in(self) -> int:
        """The command's exit code."""
        return 0


@dataclass(frozen=True)
class RefusalResult(CommandResult):
    """Of a command that did not do what it was asked; ``exit_code`` as in README."""

    error: str
    what_to_do: str
    exit_code: int


@dataclass(frozen=True)
class FileWrittenResult(CommandResult):
    """``file``: the one that was written."""

    file: str


@dataclass(frozen=True)
class BackupWrittenResult(CommandResult):
    """``files``: how many it holds. ``keep_too``: the key file that is not among them, if any."""

    file: str
    files: int
    keep_too: str | None


@dataclass(frozen=True)
class UnitResult(CommandResult):
    """``unit``: the text of a systemd unit."""

    unit: str


@dataclass(frozen=True)
class CheckedResult(CommandResult):
    """Of ``flo doctor``, which ends in 3 where no round could run.

    ``findings``: what was looked at, its ``state`` (ok, warning, broken), what was found, and how
    to mend it. ``could_run``: nothing is broken.
    """

    folder: str
    could_run: bool
    findings: list[DoctorFindingLine]

    def ends_in(self) -> int:
        """0, or 3 where no round could run."""
        return EXIT_OK if self.could_run else EXIT_REFUSED


@dataclass(frozen=True)
class DoctorFindingLine:
    """``what`` was looked at; ``mend`` is empty where it is ok."""

    what: str
    state: str
    says: str
    mend: str


# -- coordinator -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class CoordinatorMadeResult(CommandResult):
    """``fingerprint``: of its identity key."""

    home: str
    fingerprint: str


@dataclass(frozen=True)
class InvitedResult(CommandResult):
    """``replaces``: whoever uses it takes the place of a hospital that is enrolled."""

    hospital: str
    file: str
    days: int
    replaces: bool


@dataclass(frozen=True)
class RevokedResult(CommandResult):
    """A hospital that is refused from its next request on."""

    hospital: str


@dataclass(frozen=True)
class HospitalLine:
    """One line of ``HospitalsResult``."""

    hospital: str
    fingerprint: str
    revoked: bool


@dataclass(frozen=True)
class HospitalsResult(CommandResult):
    """``coordinator``: the coordinator's own fingerprint."""

    coordinator: str
    hospitals: list[HospitalLine]


@dataclass(frozen=True)
class TokenWrittenResult(CommandResult):
    """``may``: what its role allows. The token is in the file only."""

    file: str
    name: str
    role: str
    hours: float
    may: list[str]


@dataclass(frozen=True)
class ConsoleLinkResult(CommandResult):
    """``link`` signs in whoever opens it: it is like a password. ``certificate``: SHA-256."""

    link: str
    hours: float | None
    certificate: str | None


@dataclass(frozen=True)
class RewrappedResult(CommandResult):
    """``secrets``: how many are sealed anew."""

    secrets: int


@dataclass(frozen=True)
class KeyReplacedResult(CommandResult):
    """``fingerprint``: of the new identity key."""

    fingerprint: str


@dataclass(frozen=True)
class CoordinatorRestoredResult(CommandResult):
    """``made``: when the backup was. ``let_in``: hospitals that are let in again."""

    home: str
    made: str
    let_in: list[str]


# -- studies ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StudyCheckedResult(CommandResult):
    """``digest``: as it is written; a signed study names keys, so it has another one.

    ``ways``: mechanisms that were tried on made-up patients; ``recommended``: what to change;
    ``advised_against``: at this size noise leaves little of any model; null where nothing was
    tried, or only a logistic model in a network's place, which has less noise.
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
    """``status``: planned (nothing was sent), offered, running, paused, done, stopped or ended.

    ``result``: what its run came to: rounds, epsilon, delta, estimate, subgroups, survey, model.
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
    """All that were signed here, the oldest first."""

    studies: list[StudyStateResult]


@dataclass(frozen=True)
class StoppingResult(CommandResult):
    """A study that ends after the round at hand."""

    digest: str


@dataclass(frozen=True)
class ShreddedResult(CommandResult):
    """``removed``: files and objects."""

    digest: str
    removed: int


@dataclass(frozen=True)
class ExtractsSavedResult(CommandResult):
    """``hospitals``: those whose signed extract is in the folder."""

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
    """``populations``: those that were new in site.toml."""

    populations: list[str]


@dataclass(frozen=True)
class SiteEnrolledResult(CommandResult):
    """Both fingerprints, to be compared by telephone."""

    hospital: str
    fingerprint: str
    coordinator: str


@dataclass(frozen=True)
class CoordinatorKeyResult(CommandResult):
    """``earlier``: fingerprints of keys that the present one follows."""

    url: str
    fingerprint: str
    earlier: list[str]


@dataclass(frozen=True)
class LeftResult(CommandResult):
    """The hospital has left, and its certificate is revoked."""

    hospital: str


@dataclass(frozen=True)
class PartnersResult(CommandResult):
    """``confirmed``: hospital to fingerprint, as compared by telephone."""

    confirmed: dict[str, str]


@dataclass(frozen=True)
class InboxLine:
    """One line of ``InboxResult``. ``status``: at the coordinator; ``here``: what was decided."""

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
    """``sections``: headings, each with its (label, text) lines. ``page``: the HTML, if asked."""

    study: str
    digest: str
    sections: list[dict[str, Any]]
    page: str | None


@dataclass(frozen=True)
class MappedResult(CommandResult):
    """``columns``: the study's columns, or with ``--fields`` our fields, and what each is here.

    ``open``: columns for which nothing was found. ``file``: what was written, if anything.
    """

    file: str | None
    columns: dict[str, str | None]
    open: list[str]


@dataclass(frozen=True)
class DataFindingLine:
    """What was found in the data: no value, but how many records; stays at the hospital."""

    column: str
    rule: str
    count: int
    level: str


@dataclass(frozen=True)
class InspectedResult(CommandResult):
    """Of ``flo site inspect``, which ends in 3 where an approval would be refused.

    ``in_the_way``: of an approval; ``known``: notes, and what the mapping accepts.
    """

    study: str
    records: int
    patients: int
    in_the_way: list[DataFindingLine]
    known: list[DataFindingLine]
    page: str | None

    def ends_in(self) -> int:
        """0, or 3 where the gate would refuse the data."""
        return EXIT_REFUSED if self.in_the_way else EXIT_OK


@dataclass(frozen=True)
class ApprovalResult(CommandResult):
    """``approved``: false while other people have to say yes, and for a ``dry_run``.

    ``takes``: shares of the life budget, by sub-ledger. ``people``: who has said yes.
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
    """``decision``: refused or withdrawn. ``told``: whether the coordinator could be."""

    digest: str
    decision: str
    told: bool


@dataclass(frozen=True)
class HaltedResult(CommandResult):
    """``since``: from when on nothing leaves this hospital; null if it goes on."""

    since: str | None


@dataclass(frozen=True)
class PolicyShownResult(CommandResult):
    """``rules``: as in policy.toml; ``in_force``: false while more people have to sign them."""

    digest: str
    in_force: bool
    rules: dict[str, Any]


@dataclass(frozen=True)
class PersonKeyResult(CommandResult):
    """``public``: for [[people]] in policy.toml. The private key is in the file only."""

    file: str
    name: str
    role: str
    public: str


@dataclass(frozen=True)
class OptedOutResult(CommandResult):
    """``studies``: how many the patient was taken out of. ``known``: a data file has the id; null
    where one could not be read."""

    studies: int
    known: bool | None


@dataclass(frozen=True)
class ErasedResult(CommandResult):
    """``contributions``: study, releases, ε and the factor by which odds change at most.

    ``known``: as of ``flo site opt-out``.
    """

    record: str
    known: bool | None
    contributions: list[dict[str, Any]]
    unknown: list[str]


@dataclass(frozen=True)
class BudgetResult(CommandResult):
    """``populations``: life (ε, δ), what is spent, reserved and free by sub-ledger, by study."""

    populations: list[dict[str, Any]]
    schema_version: int = field(default=2, kw_only=True)


@dataclass(frozen=True)
class SiteRecoveredResult(CommandResult):
    """``studies``: approved since the backup; ``exhausted``: populations with nothing left."""

    lost_rows: int
    studies: list[str]
    exhausted: list[str]


# -- audit -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PagesWrittenResult(CommandResult):
    """The document, and the page made from it."""

    document: str
    page: str


@dataclass(frozen=True)
class VerifiedResult(CommandResult):
    """What holds of each file: reports by hospital, logs by owner, evidence by row."""

    reports: list[dict[str, Any]]
    logs: list[dict[str, Any]]
    evidence: list[dict[str, Any]]


@dataclass(frozen=True)
class LogShownResult(CommandResult):
    """``entries``: the latest, as many as ``--last`` says. ``count``: of the whole log."""

    owner: str
    count: int
    entries: list[dict[str, Any]]


@dataclass(frozen=True)
class EvidenceWrittenResult(CommandResult):
    """``missing``: references of rows that nothing in this installation shows."""

    document: str
    page: str
    shown: int
    missing: list[str]


@dataclass(frozen=True)
class ReleaseCheckLine(CommandResult):
    """``p``: how likely a right trainer looks like that, or worse. ``seen``: whether the check
    could look at all; ``failed``: whether it refutes the trainer.
    """

    of: str
    name: str
    p: float
    failed: bool
    said: str
    seen: bool


@dataclass(frozen=True)
class AttackedResult(CommandResult):
    """A lower bound on ε from guesses about made-up patients, beside what is claimed; and what the
    checks of noise, clip and coins found.
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
    """One line of ``ModelsResult``. ``refused``: why it does not count, if it does not."""

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
    """``card``: the signed card, checked."""

    card: dict[str, Any]


@dataclass(frozen=True)
class ModelFetchedResult(CommandResult):
    """``card``: where it lies, its tensors beside it."""

    card: str


@dataclass(frozen=True)
class PredictedResult(CommandResult):
    """``records``: how many were scored."""

    file: str
    records: int


@dataclass(frozen=True)
class PackageStateResult(CommandResult):
    """``approval``: PendingManualApproval, Approved or Rejected; planned for a dry run."""

    package: str
    approval: str


@dataclass(frozen=True)
class PackageLine:
    """One line of ``PackagesResult``."""

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
    """``changes``: action, name, type, replaced. ``dollars``: a month, about, by service."""

    changes: list[dict[str, Any]]
    dollars: dict[str, float]


@dataclass(frozen=True)
class StackStateResult(CommandResult):
    """``status``: CloudFormation's, or gone. ``outputs``: what coordinator.toml needs."""

    name: str
    status: str
    outputs: dict[str, str]


# -- on one machine --------------------------------------------------------------------------------


@dataclass(frozen=True)
class SimulatedResult(CommandResult):
    """Exact numbers, so never private. ``pooled`` and ``alone``: with ``--compare`` only.

    ``auc_interval``: 95 %, over who the test patients are. ``auc_noise``: standard deviation of one
    model's AUC when its noise is drawn anew, with ``--redraws``. ``auc_pooled`` and ``auc_alone``:
    regressions without privacy, of all hospitals and of one, tested on the patients of all.
    ``auc_within``...: the mean over hospitals, each tested on its own patients. ``sites``: by
    hospital, ``patients`` and ``positive`` ones, and AUCs among them. ``calibration``: the
    ``predicted`` and ``observed`` share of label 1, and the ``brier`` score. ``evaluation``: each
    run's own noisy estimate beside the exact AUC of the same patients: the ``level`` of its
    intervals, in how many of ``runs`` one ``covered`` the exact AUC, the mean error (``bias``) and
    the mean ``width``; null where no run came to one.
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
    """``seconds_from_launch``: from offering the study to the verified report."""

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
    """``credit``: whose data they are."""

    files: list[str]
    credit: str


@dataclass(frozen=True)
class MeasuredResult(CommandResult):
    """``rows``: group, name, flo, reference, ratio, unit, runs, how."""

    rows: list[dict[str, Any]]
