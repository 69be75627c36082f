"""The model card: a signed description of a published model, for use far from its coordinator.

A model is two files, ``NAME.safetensors`` (named tensors, no executable content) and
``NAME.card.json``. The card binds the tensors to their cost in privacy and to the signed study,
whose columns, bounds and codebooks define how a patient becomes the model's inputs. The tensors are
parsed only after the card's signature and their digest have been checked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
    model_validator,
)
from scipy.special import logit

from flo.arrays import Floats
from flo.documents import canonical
from flo.documents.document import Document, read_json
from flo.errors import PolicyError, TrustError, UsageError
from flo.keys.claims import Digest, PublicKey, Signature
from flo.keys.identity import Signer, fingerprint, low_s, verify
from flo.privacy.accounting.plan import Plan
from flo.privacy.releases import calibration, evaluation, model_noise
from flo.privacy.releases.calibration import Calibration, curves_of
from flo.privacy.releases.model_noise import MOST_WEIGHTS
from flo.privacy.releases.quantities import Foreseen
from flo.privacy.report.wording import trust
from flo.protocol.messages import LARGEST_WEIGHT
from flo.published.evaluated import EvaluatedSums
from flo.published.gate_result import GateSums
from flo.published.golden import Golden
from flo.study.classes import MOST_CLASSES, Classes
from flo.study.document import MAX_STUDY_BYTES, Study
from flo.study.lineage import Life
from flo.study.loading import from_canonical
from flo.study.models import flat, log_odds, scores
from flo.study.outcome import Outcome
from flo.study.parameters import Vector
from flo.study.quantity import MOST_LEVELS, Quantity
from flo.study.terms import Identifier
from flo.study.time_to_event import MOST_HORIZONS, TimeToEvent

FINISHED = ".finished"  # ending of finished models (``flo.clients.records.finished_model``)
MAX_CARD_BYTES = 4 * MAX_STUDY_BYTES
MAX_MODEL_BYTES, MAX_TENSORS_HEADER_BYTES = 1 << 30, 1 << 20
_POINTS = 100  # of each of several curves; those of this version have 65
_SAME_RISK = 5e-3  # of curves that are fitted on two machines
_SAME = 2e-3  # two machines may accept neighbouring candidates for the end of an interval
_ONE_FORM = 3  # from this study schema on, a card's signature has only one valid form
MOST_INPUTS, MOST_NOISE = MOST_WEIGHTS - 1, MOST_WEIGHTS * (MOST_WEIGHTS + 1) // 2
Average = Annotated[float, Field(ge=-1, le=1)]
Variance = Annotated[
    float, Field(ge=-model_noise.LARGEST_VARIANCE, le=model_noise.LARGEST_VARIANCE)
]
_Text = Annotated[str, StringConstraints(max_length=500)]


BINS_HIDE = (
    "the scores were counted in bins, whose AUC can be 0.12 below the AUC of the scores. The "
    "interval covers this only if the study ended with a version of FLO that supports schema 3"
)


class Quality(Document):
    """A noisy AUC on patients who were never trained on, with its interval."""

    auc: float
    low: float
    high: float
    level: float

    @model_validator(mode="after")
    def _ordered(self) -> Quality:
        if not 0 <= self.low <= self.auc <= self.high <= 1:
            raise ValueError("0 <= low <= auc <= high <= 1 does not hold")
        return self


class ModelCard(Document):
    """``study``: its canonical document. ``file``: SHA-256 of the safetensors file.

    ``report``: digest of the privacy report that the coordinator made from the hospitals' extracts;
    ``without_extract``: hospitals whose extract had not arrived by then. ``coordinator``: its key.
    ``calibration``: risk of each log odds; None if the model was not evaluated, was counted in
    bins, or if no fit was found. Cards of schema 1 have none. ``life``: the largest life budget of
    the patients who took part in the study; None if a hospital's extract is missing. Only cards of
    schema 3 to 5, which are of studies of schema 4, have it. Only cards of schema 4 and 5 have the
    following. ``gate``: the noisy sums of the study's gate; None if it has none or was cut short.
    ``golden``: made-up patients with their scores; None if one of them has no finite score.
    ``noise``: the lower triangle of the covariance of the weights, if only the noise were drawn
    again (``flo.privacy.releases.model_noise``), and ``average``: of the patients' inputs,
    as far as noise lets one know; None if they are not known. ``evaluated``: the noisy sums of the
    evaluation; only cards of schema 5 to 8 have it, and None if there was none or they are very
    many.

    Cards of schema 6 are of the time to an event. ``evaluation`` and ``subgroups`` then state the
    concordance between periods; ``calibration`` the risk of the event by the last horizon, and
    ``earlier_horizons`` by those before, in order; log odds are of the hazard in a period.

    Cards of schema 7 are of a number or a count (``flo.study.quantity``). ``evaluation`` and
    ``subgroups`` state the concordance between levels; ``calibration`` what share of the range lies
    below the expected value, and ``steps`` what share of each step between levels is reached; log
    odds are of the share of all steps.

    Cards of schema 8 are of several classes (``flo.study.classes``). ``evaluation`` and
    ``subgroups`` state the mean of the classes' AUCs; ``by_class`` the risk of each class, by its
    own log odds. There is no ``calibration``.
    """

    schema_version: Literal[1, 2, 3, 4, 5, 6, 7, 8] = 2
    study: Annotated[str, StringConstraints(max_length=MAX_STUDY_BYTES)]
    study_signature: Signature
    run: Identifier
    made: _Text
    file: Digest
    rounds: Annotated[int, Field(ge=0)]
    epsilon: Annotated[float, Field(gt=0)]
    delta: Annotated[float, Field(gt=0, lt=1)]
    trust_model: _Text
    evaluation: Quality | None
    subgroups: dict[_Text, Quality]
    calibration: Calibration | None = None
    earlier_horizons: Annotated[tuple[Calibration, ...], Field(max_length=MOST_HORIZONS)] = ()
    steps: Annotated[tuple[Calibration, ...], Field(max_length=MOST_LEVELS)] = ()
    by_class: Annotated[tuple[Calibration, ...], Field(max_length=MOST_CLASSES)] = ()
    life: Life | None = None
    gate: GateSums | None = None
    evaluated: EvaluatedSums | None = None
    golden: Golden | None = None
    noise: Annotated[tuple[Variance, ...], Field(max_length=MOST_NOISE)] | None = None
    average: Annotated[tuple[Average, ...], Field(max_length=MOST_INPUTS)] | None = None
    average_deviation: Annotated[float, Field(ge=0)] | None = None
    report: Digest | None
    without_extract: tuple[Identifier, ...]
    coordinator: PublicKey
    signature: Signature | Literal[""] = ""

    @model_serializer(mode="wrap")
    def _of_its_schema(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what the card's schema does not have, so that its signed bytes are the same."""
        document: dict[str, Any] = dump(self)
        if self.schema_version == 1:
            document.pop("calibration", None)
        if self.schema_version < 6:
            document.pop("earlier_horizons", None)
        if self.schema_version < 7:
            document.pop("steps", None)
        if self.schema_version < 8:
            document.pop("by_class", None)
        if self.schema_version < 3:
            document.pop("life", None)
        if self.schema_version < 5:
            document.pop("evaluated", None)
        if self.schema_version < 4:
            document.pop("gate", None)
            document.pop("golden", None)
            document.pop("noise", None)
            document.pop("average", None)
            document.pop("average_deviation", None)
        return document

    @model_validator(mode="after")
    def _has_what_its_schema_has(self) -> ModelCard:
        if self.schema_version == 1 and self.calibration is not None:
            raise ValueError("a card of schema_version 1 has no calibration")
        if self.schema_version < 6 and self.earlier_horizons:
            raise ValueError("a card of schema_version 1 to 5 has no risks at several horizons")
        if self.schema_version < 7 and self.steps:
            raise ValueError("a card of schema_version 1 to 6 has no steps between levels")
        if self.schema_version < 8 and self.by_class:
            raise ValueError("a card of schema_version 1 to 7 has no risks of several classes")
        if self.schema_version < 3 and self.life is not None:
            raise ValueError("a card of schema_version 1 or 2 has no life")
        if self.schema_version < 4 and (self.gate or self.golden or self.noise or self.average):
            raise ValueError("a card of schema_version 1 to 3 has no gate, golden cases and noise")
        if self.schema_version < 5 and self.evaluated is not None:
            raise ValueError("a card of schema_version 1 to 4 has no sums of its evaluation")
        if self.evaluation is None and self.gate is not None:
            raise ValueError("a gate without an evaluation")
        if self.evaluation is None and (self.calibration is not None or self.by_class):
            raise ValueError("a calibration without an evaluation")
        return self

    @property
    def curves(self) -> tuple[Calibration, ...]:
        """The calibration of each risk that is stated; empty if none is known."""
        return curves_of(self.calibration, self.earlier_horizons, self.by_class)

    @property
    def risks_of_yes_or_no(self) -> Calibration | None:
        """The calibration, if it is of an outcome of yes or no."""
        return self.calibration if self.schema_version < 6 else None

    @property
    def digest(self) -> str:
        """SHA-256 of the signed card and of its file: how a later study names the model."""
        return canonical.digest(self.to_bytes())

    def signed(self, identity: Signer) -> ModelCard:
        """Return a copy signed by this coordinator, replacing any earlier signature."""
        unsigned = self.model_copy(update={"coordinator": identity.public.hex(), "signature": ""})
        signature = identity.sign("model-card", unsigned._statement())
        return unsigned.model_copy(update={"signature": signature})

    def check(self, *coordinators: str) -> Study:
        """Verify the card and return the model's study.

        Raises:
            TrustError: not signed by a key of fingerprint in ``coordinators``, or not its study.
        """
        public = bytes.fromhex(self.coordinator)
        if fingerprint(public) not in coordinators:
            raise TrustError(
                f"this model is signed by another coordinator, {fingerprint(public)[:16]}...",
                hint="ask the coordinator for its fingerprint and compare by telephone",
            )
        unsigned = self.model_copy(update={"signature": ""})
        verify(public, "model-card", unsigned._statement(), self.signature)
        verify(public, "study", self.study.encode(), self.study_signature)
        study = from_canonical(self.study.encode())
        if study.schema_version >= _ONE_FORM and self.signature != low_s(self.signature):
            raise TrustError(
                "the card was changed: its signature is not in the form with the smaller s"
            )
        self._check_against(study)
        return study

    def _check_against(self, study: Study) -> None:
        """Raises TrustError unless the card agrees with all that follows from the study."""
        plan = Plan.of(study)
        follows = (
            study.trains
            and math.isclose(self.epsilon, plan.epsilon, rel_tol=1e-6)
            and self.delta == study.mechanism.delta
            and self.trust_model == trust(study)
            and self.rounds <= study.mechanism.steps
            and (self.schema_version < 3 or study.schema_version >= 4)
            and (study.continues is None or (self.schema_version >= 3 and bool(study.lineage)))
            and (self.life is None or (self.report is not None and not self.without_extract))
            and (self.calibration is None or not study.evaluation.bins)
            and (max(self.schema_version, 5) == schema_of(study.data.outcome))
            and has_a_curve_for_each(
                study, self.calibration, self.earlier_horizons, self.steps, self.by_class
            )
            and (study.gate is None or self.schema_version >= 4)
            and (self.gate is None or self.gate.follow_from(study))
            and (self.evaluated is None or self._follows_from_sums(study, self.evaluated))
            and model_noise.fits(study, self.noise, self.average, self.average_deviation)
            and (self.golden is None or self.golden.follow_from(study, self.calibration))
        )
        if not follows:
            raise TrustError("the model card contradicts its study")

    def _follows_from_sums(self, study: Study, sums: EvaluatedSums) -> bool:
        """Return whether the AUCs are those of the sums, which are of this study."""
        if self.evaluation is None or not sums.follow_from(study):
            return False
        estimate, subgroups = evaluation.read(study, *sums.sums(study))
        named = {**subgroups, "": estimate}
        stated = {**self.subgroups, "": self.evaluation}
        return all(
            name in stated
            and math.isclose(stated[name].auc, found.auc, abs_tol=_SAME)
            and math.isclose(stated[name].low, found.low, abs_tol=_SAME)
            and math.isclose(stated[name].high, found.high, abs_tol=_SAME)
            for name, found in named.items()
        )

    def _statement(self) -> bytes:
        return canonical.encode(self.model_dump(mode="json", exclude={"signature"}))


@dataclass(frozen=True)
class PublishedModel:
    """A model with verified card and tensors."""

    card: ModelCard
    study: Study
    weights: Vector

    @property
    def title(self) -> str:
        """Name and version, for people."""
        return f"{self.study.name}, version {self.study.version}"

    def log_odds(self, inputs: Floats) -> Floats:
        """Return log odds of label 1, shape (n,), for inputs (n, d), by a model of one output."""
        return log_odds(self.study, self.weights, inputs)

    def scores(self, inputs: Floats) -> Floats:
        """Return log odds (n, outputs): of label 1, or of each of several classes."""
        return scores(self.study, self.weights, inputs)

    @property
    def is_linear(self) -> bool:
        """Whether log odds are a linear function of inputs, so that weights say how."""
        return self.study.model.kind == "logistic"

    @property
    def noise(self) -> Floats | None:
        """Covariance, from noise alone, of what the d inputs and the intercept weigh,
        (d + 1, d + 1); None if it is not known."""
        return None if self.card.noise is None else model_noise.unpacked(np.array(self.card.noise))

    def no_noise(self, so: str) -> UsageError:
        """Return the error for a card that states no noise. ``so``: what follows."""
        why = model_noise.unknown_reason(self.study)
        why = why and f"{why}, so that it is not known how noise moves its weights"
        if why is None and self.study.schema_version < 4:
            why = "its schema_version is below 4"
        if why is None and not self.is_linear:
            why = "not the same hospitals took part in all rounds, its run ended early, or it bends"
        why = why or "not the same hospitals took part in all rounds, or its run ended early"
        return UsageError(
            f"{self.study.name}, version {self.study.version}: its card states no noise, so {so}",
            hint=f"the study's card cannot state it: {why}",
        )

    def calibrated(self, log_odds: Floats) -> Floats:
        """Return the log odds of the card's risks, (n,); unchanged if it has no calibration.

        Scores beyond the ends of its curve have the same risk, so these do not rank patients.
        """
        if self.card.calibration is None:
            return log_odds
        risk, _, _ = self.card.calibration.of(log_odds)
        return np.asarray(logit(risk))

    @classmethod
    def open(cls, path: Path, *coordinators: str) -> PublishedModel:
        """Read ``path`` (the tensors, or the card beside them) and check everything.

        Raises:
            PolicyError: ``path`` is a finished model, which is not private. UsageError: a file is
            missing or malformed. TrustError: not signed by a key of
            fingerprint in ``coordinators``, or the tensors are not the card's.
        """
        if path.suffix == FINISHED:
            raise PolicyError(
                f"{path} is a finished model: it is not private, so it stays in this hospital",
                hint=f"use it by name: flo model predict {path.stem}",
            )
        card_path, tensors_path = paths_of(path)
        card = read_card(card_path)
        if not tensors_path.is_file() or tensors_path.stat().st_size > MAX_MODEL_BYTES:
            raise UsageError(f"{tensors_path} is missing, or larger than {MAX_MODEL_BYTES} bytes")
        return cls.of(card, tensors_path.read_bytes(), *coordinators)

    @classmethod
    def of(cls, card: ModelCard, tensors: bytes, *coordinators: str) -> PublishedModel:
        """Check a card and the bytes of its tensors, as ``open`` does."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        study = card.check(*coordinators)
        if canonical.digest(tensors) != card.file:
            raise TrustError("the tensors are not the ones that the model card names")
        header = int.from_bytes(tensors[:8], "little")
        if header > MAX_TENSORS_HEADER_BYTES:
            raise TrustError(
                f"the tensors' header has {header} bytes, limit {MAX_TENSORS_HEADER_BYTES}"
            )
        try:
            weights = flat(study, load(tensors))
        except (SafetensorError, ValueError, KeyError) as error:
            raise TrustError(f"the tensors do not fit the study's model: {error}") from error
        if not (np.abs(weights) <= LARGEST_WEIGHT).all():
            raise TrustError(f"the model has weights beyond ±{LARGEST_WEIGHT:g}")
        if not _are_of_their_classes(card, study, weights):
            raise TrustError("the card's risks are not those of its evaluation, class by class")
        return cls(card, study, weights)


def schema_of(outcome: Outcome | None) -> Literal[5, 6, 7, 8]:
    """Return the schema of the cards of that outcome; of yes or no 5, or an older one."""
    match outcome:
        case None:
            return 5
        case TimeToEvent():
            return 6
        case Quantity():
            return 7
        case Classes():
            return 8


def has_a_curve_for_each(
    study: Study,
    calibration: Calibration | None,
    earlier: Sequence[Calibration],
    steps: Sequence[Calibration],
    by_class: Sequence[Calibration],
) -> bool:
    """Return whether there is a curve for each horizon, step or class of the study, or none at all.

    Several curves have at most 100 points each, so that a card can be read; those of steps add up.
    """
    times, quantity, classes = study.data.times, study.data.quantity, study.data.classes
    if classes is not None:
        if calibration is not None or earlier or steps:
            return False
        return len(by_class) in (0, classes.codes) and _are_short(by_class)
    if by_class or (calibration is None and (earlier or steps)):
        return False
    if calibration is None:
        return True
    wanted = (times.periods - 1 if times else 0, quantity.codes - 1 if quantity else 0)
    if (len(earlier), len(steps)) != wanted:
        return False
    if wanted != (0, 0) and not _are_short((calibration, *earlier, *steps)):
        return False
    return quantity is None or Foreseen(calibration, tuple(steps)).agrees(quantity)


def _are_of_their_classes(card: ModelCard, study: Study, weights: Vector) -> bool:
    """Return whether the risks of several classes follow from the card's sums, in their order."""
    if not card.by_class or card.evaluated is None:
        return True
    again = calibration.fit_each(study, weights, *card.evaluated.sums(study))
    return len(again) == len(card.by_class) and all(
        np.abs(curve.of(np.array(one.log_odds))[0] - one.risk).max() <= _SAME_RISK
        for one, curve in zip(again, card.by_class, strict=True)
    )


def _are_short(curves: Sequence[Calibration]) -> bool:
    return all(len(one.risk) <= _POINTS for one in curves)


def read_card(path: Path) -> ModelCard:
    """Read a card without checking it. Raises UsageError or MessageError."""
    if not path.is_file():
        raise UsageError(
            f"no model card at {path}",
            hint="a model is two files, NAME.safetensors and NAME.card.json, in one folder",
        )
    return read_json(ModelCard, path, limit=MAX_CARD_BYTES)


def paths_of(path: Path) -> tuple[Path, Path]:
    """Return the paths of card and tensors of a model that either one names."""
    stem = path.name.removesuffix(".card.json").removesuffix(".safetensors")
    return path.with_name(f"{stem}.card.json"), path.with_name(f"{stem}.safetensors")
