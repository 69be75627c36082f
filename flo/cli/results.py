"""Results of all other commands (studies, audit, models), as ``--json`` writes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flo.cli.terminal.results import CommandResult

# -- studies ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EncoderDescribedResult(CommandResult):
    """``digest``: SHA-256 of an encoder's file. ``facts``: what the file states."""

    digest: str
    facts: dict[str, Any]


@dataclass(frozen=True)
class PackResult(CommandResult):
    """``digest``: of a model pack. ``layers``: in words."""

    digest: str
    parameters: int
    layers: list[str]


@dataclass(frozen=True)
class StudyCheckedResult(CommandResult):
    """``digest``: of the unsigned study; a signed study contains keys and has another digest.

    ``epsilon_prv``: null where Opacus does not load. ``sigma``: noise multiplier of a training
    round. ``ways``: the study as it is and as it would be drafted, tried on made-up
    patients; ``recommended``: changes to the mechanism; ``advised``: whether the recommended way
    keeps enough AUC; null if made-up patients cannot tell, if none were tried, or if only a
    logistic model was tried in place of a network. ``network``: whether the patients suffice for a
    network that FedAvgM trains (``flo.lab.network_size``); null for other models. ``years``: with
    ``--years``, patients expected by hospital, how many such studies a life budget pays for, and
    AUCs of made-up patients by year, as ``flo simulate --years`` writes them.
    """

    study: str
    digest: str
    epsilon: float
    epsilon_pld: float
    epsilon_prv: float | None
    delta: float
    sigma: float
    steps: int
    ways: list[dict[str, Any]]
    recommended: dict[str, Any] | None
    advised: bool | None
    network: dict[str, Any] | None
    years: dict[str, Any] | None
    regressions: dict[str, Any] | None


@dataclass(frozen=True)
class StudyStateResult(CommandResult):
    """``status``: planned (not sent), offered, running, paused, done, stopped or ended.

    ``result``: outcome of the run: rounds, epsilon, delta, estimate, subgroups, model.
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


@dataclass(frozen=True)
class StatisticsWrittenResult(CommandResult):
    """``files``: the signed statistics, all estimates as CSV, and the page."""

    digest: str
    files: list[str]


@dataclass(frozen=True)
class AnswerResult(CommandResult):
    """``patients``, ``share``: value and ends of the 95 % interval; ``share`` is of all, and None
    if noise hides it.
    """

    question: str
    columns: list[str]
    patients: list[float]
    share: list[float] | None


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
class VerdictResult(CommandResult):
    """``verdict``: pass, fail or cannot tell. ``comparison``: its figures with intervals."""

    study: str
    verdict: str
    comparison: dict[str, Any]


@dataclass(frozen=True)
class DriftResult(CommandResult):
    """A monitor's series. ``period``: the latest with a result. ``alarm``: whether any raised one,
    which stands; ``alarms``: which. ``missing``: periods without a result."""

    study: str
    period: int
    alarm: bool
    health: int
    alarms: list[int]
    missing: list[int]


@dataclass(frozen=True)
class ScoringWay(CommandResult):
    """One way of scoring the golden cases. ``differ``: names of cases with another score."""

    way: str
    cases: int
    differ: list[str]


@dataclass(frozen=True)
class ModelCheckedResult(CommandResult):
    """A model's golden cases in each way of scoring here.

    ``beyond_noise``: how much it differs from the model in use, in deviations of noise.
    """

    study: str
    run: str
    ways: list[ScoringWay]
    beyond_noise: float | None


@dataclass(frozen=True)
class FlagRuleResult(CommandResult):
    """From which risk on patients are flagged. ``groups``: code -> its risk. ``signed``: whether
    the rule is in force."""

    card: str
    signed: bool
    threshold: float | None
    column: str | None
    groups: dict[str, float]


@dataclass(frozen=True)
class ExplainedColumn(CommandResult):
    """A column of a model. ``about``: in the study's words. ``effects``: name, log odds, and ends
    of the 95 % interval of noise."""

    column: str
    about: str
    importance: float
    effects: list[tuple[str, float, float, float]]


@dataclass(frozen=True)
class ExplainedResult(CommandResult):
    """What a model does, the most important column first."""

    study: str
    run: str
    columns: list[ExplainedColumn]


@dataclass(frozen=True)
class TracedResult(CommandResult):
    """What made a file of scores. ``ledger``: rows of this site's ledger for the study."""

    scores: str
    study: str
    run: str
    card: str
    code: str
    approved: bool
    ledger: list[int]


@dataclass(frozen=True)
class ModelFetchedResult(CommandResult):
    """``card``: path of the card; the tensors are in the same folder."""

    card: str


@dataclass(frozen=True)
class PredictedResult(CommandResult):
    """``records``: number of scored records; ``with_risk``: of those whose risk was stated."""

    file: str
    records: int
    with_risk: int


@dataclass(frozen=True)
class FinishedResult(CommandResult):
    """``model``: name of the finished model. Its figures, which are not private, are not here."""

    model: str


@dataclass(frozen=True)
class GroupGap:
    """One rate of the groups of one column. ``rates``: group -> value, low, high, or None each.

    ``differ``: by more than noise and chance. ``low``, ``high``: of the largest difference.
    """

    column: str
    kind: str
    differ: bool
    low: float
    high: float
    rates: dict[str, tuple[float | None, float | None, float | None]]


@dataclass(frozen=True)
class FairnessResult(CommandResult):
    """``thresholds``: column -> group -> risk, where groups differ in sensitivity."""

    study: str
    threshold: float
    gaps: list[GroupGap]
    thresholds: dict[str, dict[str, float]]


@dataclass(frozen=True)
class AnswersLine:
    """How often a version answered a caller in a month. ``version``: 0 if none answered."""

    month: str
    caller: str
    model: str
    version: int
    outcome: str
    answers: int


@dataclass(frozen=True)
class AnswerLine:
    """One answer. ``time``: of its entry. ``service``: the model's name."""

    time: str
    caller: str
    service: str
    version: int
    outcome: str


@dataclass(frozen=True)
class AnswersResult(CommandResult):
    """``entries``: of each file of the log. ``found``: answers with the id that was asked for.
    ``refused``: reason -> number of requests."""

    entries: dict[str, int]
    counts: list[AnswersLine]
    found: list[AnswerLine]
    refused: dict[str, int]


@dataclass(frozen=True)
class ComparisonResult(CommandResult):
    """Versions that are compared with the one in use. ``shares``: in percent, by version."""

    name: str
    shares: dict[int, int]


@dataclass(frozen=True)
class OutcomesResult(CommandResult):
    """How many outcomes were new, known, contradict what is known, or are of other answers."""

    kept: int
    known: int
    contradicting: int
    not_compared: int


@dataclass(frozen=True)
class ComparedLine:
    """One version beside the one in use: as ``flo.clients.comparison.result.ComparedResult``.

    ``gain``: by how many percent it found what happened likelier than the version in use did, with
    its interval; None if no outcome counts yet.
    """

    version: int
    share: int
    answers: int
    shown: int
    without: int
    patients: int
    due: int
    outcomes: int
    apart: float
    gain: tuple[float, float, float] | None
    verdict: str


@dataclass(frozen=True)
class ComparedResult(CommandResult):
    """``baseline``: the version that the others are compared with. ``feedback``: how many cards of
    a version clinicians accepted or overrode."""

    name: str
    baseline: int
    versions: list[ComparedLine]
    feedback: dict[str, int]


@dataclass(frozen=True)
class AlarmLine:
    """An alarm of a monitor. ``since``: the day on which it is estimated to have begun; ``found``:
    the day of the alarm."""

    number: int
    cause: str
    words: str
    advice: str
    since: str
    found: str


@dataclass(frozen=True)
class WatchedGroup:
    """``known``: patients whose outcome is known, ``had``: who came to have it, ``stated``: sum of
    their risks, ``score``: of the group's monitors, 0 to 100."""

    group: str
    known: int
    had: int
    stated: float
    score: float


@dataclass(frozen=True)
class WatchResult(CommandResult):
    """``health``: 0 to 100, below 85 with an alarm. ``learning``: what is missing until answers are
    watched; empty if they are. ``version``: 0 if all was deleted."""

    name: str
    version: int
    health: float
    learning: str
    patients: int
    alarms: list[AlarmLine]
    groups: list[WatchedGroup]


@dataclass(frozen=True)
class SettledResult(CommandResult):
    """An alarm that was ended; ``about``: its kind, ``of``: column or group."""

    name: str
    alarm: int
    about: str
    of: str


@dataclass(frozen=True)
class PlanResult(CommandResult):
    """``responses``: to alarms about outcomes, columns, risks and service."""

    name: str
    follow_up_days: int
    responses: dict[str, str]


@dataclass(frozen=True)
class VersionStateResult(CommandResult):
    """``state`` of a version after a decision: approved, current or withdrawn."""

    name: str
    version: int
    card: str
    state: str


@dataclass(frozen=True)
class DeployedResult(CommandResult):
    """Versions that answer at ``door``: ``live``, and ``canary`` for ``share`` percent of requests.

    ``before``: the version that was live before. 0: there is none.
    """

    door: str
    live: int
    canary: int
    share: int
    before: int


@dataclass(frozen=True)
class VersionLine:
    """Line of ``VersionsResult``. ``state``: by the coordinator.

    ``here``: at a hospital, "in use", "withdrawn" or "".
    """

    name: str
    version: int
    card: str
    state: str
    here: str | None


@dataclass(frozen=True)
class VersionsResult(CommandResult):
    """Versions of models, and what was decided on them."""

    versions: list[VersionLine]


@dataclass(frozen=True)
class PackageStateResult(CommandResult):
    """``approval``: PendingManualApproval, Approved or Rejected; planned for a dry run.

    Of a version that is no package, ``package`` is NAME:VERSION and ``approval`` its state.
    """

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


# -- on one machine --------------------------------------------------------------------------------


@dataclass(frozen=True)
class SimulatedResult(CommandResult):
    """Exact numbers, so never private. ``pooled`` and ``alone``: with ``--compare`` only.

    ``auc_interval``: 95 %, over the choice of test patients. ``auc_noise``: standard deviation of
    one model's AUC over repeated noise draws, with ``--redraws``. ``auc_pooled`` and ``auc_alone``:
    regressions without privacy, of all hospitals and of one, tested on the patients of all.
    ``auc_within``...: mean over hospitals, each tested on its own patients; ``finished``: by the
    model that each hospital finished at home. ``sites``: for each hospital, ``patients``,
    ``positive`` patients, AUCs and Brier scores among them. ``verdict``: sentences on who gains,
    who may lose, and whether risks can be believed. ``calibration``: the
    ``predicted`` and ``observed`` share of label 1, and the ``brier`` score; ``published``: of the
    risks that a card would state, each calibrated on other patients. ``evaluation``: each
    run's own noisy estimate compared with the exact AUC of the same patients: ``level`` of its
    intervals, number of ``runs``, number whose interval ``covered`` the exact AUC, mean error
    (``bias``) and mean ``width``; null if no run published an estimate. ``horizons``, of the time
    to an event: ``predicted`` and ``observed`` risk at each ``horizon``; what is called AUC is then
    the concordance between periods, ``positive`` are patients with the event by the last horizon,
    and there is no ``calibration``. ``values``, of a number or a count: mean ``predicted`` and
    ``observed`` value, and the share of variance or deviance that is ``explained``. What is called
    AUC is then the concordance between levels, and sites have no ``positive``. ``classes``: of each
    ``class`` of an outcome of several its ``auc`` against all others, the mean ``predicted`` risk
    and the ``observed`` share. What is called AUC elsewhere is then the macro AUC, and sites have
    no ``positive``. Names that end in ``finished``: the same, finished at home. ``years``, with
    ``--years``: for each ``year`` the AUC of the first year's model (``first_only``), of that
    year's own (``fresh``), of the one that goes on learning (``continued``) and of a study of all
    patients (``all_at_once``), with ``standard_errors`` over runs; ``life_epsilon``: ε of the most
    exposed patient, from the simulated ledgers.
    """

    study: str
    digest: str
    auc: float
    auc_std: float
    auc_interval: list[float]
    auc_noise: float | None
    auc_within: float | None
    calibration: dict[str, float] | None
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
    auc_within_finished: float | None = None
    auc_within_alone: float | None = None
    horizons: list[dict[str, float]] | None = None
    values: dict[str, float] | None = None
    classes: list[dict[str, Any]] | None = None
    years: list[dict[str, Any]] | None = None
    life_epsilon: float | None = None
    calibration_published: dict[str, float] | None = None
    calibration_finished: dict[str, float] | None = None
    calibration_pooled: dict[str, float] | None = None
    verdict: list[str] | None = None


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
class IndexResult(CommandResult):
    """``index``: geometric mean of ``scores``, each reference / here; ``low``, ``high``: 90 %.

    ``wins``: share of the weightings by which it is better than the reference; ``first``: by which
    each deployment is the best, if several were compared. ``evidence``: of the installation.
    """

    index: float
    low: float
    high: float
    scores: dict[str, float]
    wins: float
    first: dict[str, float]
    evidence: str


@dataclass(frozen=True)
class MeasuredResult(CommandResult):
    """``rows``: group, name, flo, reference, ratio, unit, runs, how."""

    rows: list[dict[str, Any]]
