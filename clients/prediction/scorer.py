"""A model made ready to score patients as they come: all that depends on no patient is done once.

``one_patient`` answers a person who types values in and ``predict`` a file; both say of a patient
what this says, in the same words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from scipy.special import expit

from flo.arrays import Floats
from flo.clients.prediction.finish import FinishedAtHome
from flo.clients.prediction.flag_rule import FlagRule
from flo.clients.prediction.reasons import NO_REASONS, directions
from flo.clients.prediction.scoring_ways import refuse_other_way
from flo.errors import UsageError
from flo.privacy.releases.calibration import Curve
from flo.published.explanation import FEWEST_REASONS, Explainer
from flo.published.model_card import PublishedModel
from flo.published.onnx import onnx_scores
from flo.scoring.curve import is_too_wide
from flo.study.wording import titles

_AS_SERVED = "as it answers requests"


@dataclass(frozen=True)
class Scored:
    """What a model says of one patient. Risks are probabilities of label 1.

    ``risk``: None if none is stated; ``low``, ``high``: its band, None of a finished model.
    ``flagged``: None if nobody decided who is flagged. ``raises``, ``lowers``: columns in the
    study's words, the largest first; none if none is certain or none was asked for.
    """

    score: float
    risk: float | None
    low: float | None
    high: float | None
    flagged: bool | None
    raises: tuple[str, ...] = ()
    lowers: tuple[str, ...] = ()


class Scorer:
    """Scores encoded patients with one model and this hospital's rule on whom it flags.

    Golden cases are scored first, in this very way. ``no_reasons``: why no reason can be given; ""
    if one can.

    Raises TrustError: as ``refuse_other_scores``.
    """

    def __init__(
        self, model: PublishedModel | FinishedAtHome, rule: FlagRule | None, onnx: bytes = b""
    ) -> None:
        """``onnx``: a published network's export, which is faster than torch; b"" for none."""
        self._finished = model if isinstance(model, FinishedAtHome) else None
        self._published = model.model if isinstance(model, FinishedAtHome) else model
        self._rule = None if self._finished else rule
        published_odds = _log_odds(self._published, onnx)
        self._log_odds = self._finished.log_odds if self._finished else published_odds
        refuse_other_way(self._published, _AS_SERVED, published_odds)
        calibration = self._published.card.calibration
        self._curve = Curve(calibration) if calibration and not self._finished else None
        self._explainer, self.no_reasons = self._explained()
        self._words = titles(self._published.study.data)

    def score(self, inputs: Floats, *, explain: bool) -> list[Scored]:
        """Return what the model says of patients with inputs (n, d)."""
        log_odds = self._log_odds(inputs)
        scores = expit(log_odds).tolist()
        reasons = self._reasons(inputs) if explain else [((), ())] * len(scores)
        if self._finished:  # its score is the risk
            return [
                Scored(score, score, None, None, None, *why)
                for score, why in zip(scores, reasons, strict=True)
            ]
        if self._curve is None:
            return [
                Scored(score, None, None, None, None, *why)
                for score, why in zip(scores, reasons, strict=True)
            ]
        flagged: list[bool | None] = [None] * len(scores)
        if self._rule is not None:
            flagged = list(self._rule.flagged(self._published, inputs, log_odds).tolist())
        return [
            Scored(score, None, None, None, None, *why)
            if is_too_wide(low, high)
            else Scored(score, risk, low, high, flag, *why)
            for score, risk, low, high, flag, why in zip(
                scores,
                *(one.tolist() for one in self._curve.of(log_odds)),
                flagged,
                reasons,
                strict=True,
            )
        ]

    def _explained(self) -> tuple[Explainer | None, str]:
        if self._finished:
            return None, "a finished model is not explained"
        if len(self._published.study.data.columns) < FEWEST_REASONS:
            return None, NO_REASONS
        try:
            return Explainer(self._published), ""
        except UsageError as error:
            return None, str(error)

    def _reasons(self, inputs: Floats) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
        if self._explainer is None:
            return [((), ())] * len(inputs)
        told = self._explainer.explain(inputs)
        return [directions(told, patient, self._words) for patient in range(len(inputs))]


def _log_odds(model: PublishedModel, onnx: bytes) -> Callable[[Floats], Floats]:
    return onnx_scores(onnx, model.study) if onnx else model.log_odds
