"""Result of a simulation: over all patients, within each hospital, and compared with no privacy."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from flo.lab.by_year import Years
from flo.lab.judged import Judged, listed, means_of
from flo.lab.verdict import Mean, verdict
from flo.privacy.accounting.plan import Plan
from flo.privacy.releases.score_waves import Estimate
from flo.scores.metrics import Scores, brier_within, calibration, difference, interval, within
from flo.study.document import Study
from flo.study.wording import measure_of, risks_of


@dataclass(frozen=True)
class Simulation:
    """A study tried by cross-validation: one ``private`` test for each seed, fold and redraw.

    If requested, it includes ``calibrated``, the risks that a card would state, unless it would
    state none; ``finished``, where each hospital's patients are scored by the model that this
    hospital finished at home; and ordinary regressions without privacy:
    ``pooled`` over all hospitals' patients; ``alone``, one for each hospital, tested on its own
    patients; and ``elsewhere``, the same models tested on the patients of all hospitals.

    ``redrawn``: the AUCs of each fold, one for each draw of the noise. ``models``: the weights of
    each private model. ``published``: the model's own noisy evaluation, if the run had one.
    ``seconds``: of every round. ``stated``: for each test how right the risks are that a card would
    state, of each horizon or class, or the expected values; None if it would state none.
    ``finished_states``: the same of the models that are finished at home. Of the time to an event
    or a quantity all that is called AUC is the concordance, of several classes it is the macro AUC;
    these have no Brier scores. ``years``: the study repeated with patients who arrive over years.
    """

    study: Study
    masks: str
    private: list[Scores] = field(default_factory=list)
    finished: list[Scores] = field(default_factory=list)
    calibrated: list[Scores] = field(default_factory=list)
    pooled: list[Scores] = field(default_factory=list)
    alone: list[Scores] = field(default_factory=list)
    elsewhere: list[Scores] = field(default_factory=list)
    redrawn: list[list[float]] = field(default_factory=list)
    models: list[npt.NDArray[np.floating]] = field(default_factory=list)
    published: list[Estimate | None] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    stated: list[list[Judged] | None] = field(default_factory=list)
    finished_states: list[list[Judged]] = field(default_factory=list)
    years: Years | None = None

    @property
    def auc(self) -> float:
        """Exact AUC on the held-out patients of all hospitals, mean over the tests."""
        return _mean(self.private)

    @property
    def measure(self) -> str:
        """The name of the measure in ``auc``: AUC, macro AUC or concordance."""
        return measure_of(self.study)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval over the choice of test patients (``flo.scores.metrics``)."""
        return interval(self.private)

    @property
    def noise(self) -> float | None:
        """Standard deviation of one fold's AUC over draws of the noise; None without redraws."""
        drawn = [aucs for aucs in self.redrawn if len(aucs) > 1]
        if not drawn:
            return None
        return math.sqrt(statistics.fmean(statistics.variance(aucs) for aucs in drawn))

    @property
    def evaluation(self) -> dict[str, float | int] | None:
        """The published estimates compared with exact AUCs; None without estimates.

        ``covered``: in how many of ``runs`` the interval of that ``level`` contained the exact AUC
        of the same patients; ``bias``: mean of the estimate minus the exact AUC; ``width``: mean
        width of the intervals.
        """
        both = [
            (estimate, test.auc_by_patient)
            for estimate, test in zip(self.published, self.private, strict=True)
            if estimate is not None
        ]
        if not both:
            return None
        return {
            "level": both[0][0].level,
            "runs": len(both),
            "covered": sum(estimate.low <= auc <= estimate.high for estimate, auc in both),
            "bias": statistics.fmean(estimate.auc - auc for estimate, auc in both),
            "width": statistics.fmean(estimate.high - estimate.low for estimate, _ in both),
        }

    @property
    def hospitals(self) -> dict[str, dict[str, Any]]:
        """By hospital: numbers of tested ``patients`` and ``positive`` ones, AUCs and Brier scores.

        An AUC is None if no test had patients of both classes. Of a quantity or of several classes
        there is no number of positive patients.
        """
        events = self.study.data.label_is_yes_or_no
        yes_or_no = self.study.data.outcome is None
        ways, risks = {"auc": self.private}, {"brier": self.private} if yes_or_no else {}
        if self.pooled:
            ways |= {"auc_finished": self.finished}
            ways |= {"auc_pooled": self.pooled, "auc_alone": self.alone}
            risks |= (
                {"brier_finished": self.finished, "brier_alone": self.alone} if yes_or_no else {}
            )
        return {
            hospital.id: {
                "declared_size": hospital.declared_size,
                **_tested(self.private, number, events=events),
                **{name: within(tests, number) for name, tests in ways.items()},
                **{name: brier_within(tests, number) for name, tests in risks.items()},
            }
            for number, hospital in enumerate(self.study.hospitals)
        }

    def compare(
        self,
        *,
        finished: Scores,
        calibrated: Scores | None,
        pooled: Scores,
        everywhere: Sequence[Scores],
    ) -> None:
        """Add a test of the patients of the last fold. ``everywhere``: by each hospital's model."""
        self.finished.append(finished)
        self.calibrated.extend([calibrated] if calibrated else [])
        self.pooled.append(pooled)
        self.elsewhere.extend(everywhere)
        self.alone.extend(test.of(number) for number, test in enumerate(everywhere))

    def _gains(self) -> dict[str, tuple[float, float, float] | None]:
        """Return each hospital's AUC finished minus alone, with its 95 % interval."""
        gains = dict[str, tuple[float, float, float] | None]()
        for number, hospital in enumerate(self.study.hospitals):
            finished, alone = _own(self.finished, number), _own(self.alone, number)
            gains[hospital.id] = difference(finished, alone) if _enough(finished) else None
        return gains

    @property
    def document(self) -> dict[str, Any]:
        """The keys of ``flo simulate --json``.

        ``report`` is None: a simulation uses no ledger, so there is no report. ``auc_std``:
        standard deviation over tests, most of it due to the choice of test patients.
        """
        plan = Plan.of(self.study)
        budget = {"epsilon": plan.epsilon, "delta": self.study.mechanism.delta}
        rounds = self.study.mechanism.steps
        hospitals = self.hospitals
        result: dict[str, Any] = {
            "schema_version": 1,
            "private": False,
            "study": self.study.name,
            "digest": self.study.digest,
            "auc": self.auc,
            "auc_std": statistics.pstdev(test.auc for test in self.private),
            "auc_interval": list(self.interval),
            "auc_noise": self.noise,
            "auc_within": _over(hospitals, "auc"),
            "calibration": calibration(self.private) if self.study.data.outcome is None else None,
            "evaluation": self.evaluation,
            **budget,
            "trust_model": f"{self.study.mechanism.noise} noise",
            "masks": self.masks,
            "rounds": rounds,
            "seconds_per_round": statistics.median(self.seconds),
            "seconds_total": math.fsum(self.seconds),
            "report": None,
            "sites": {
                hospital: {**found, **budget, "rounds": rounds}
                for hospital, found in hospitals.items()
            },
        }
        result |= self._further()
        if self.years is not None:
            result |= {"years": self.years.document, "life_epsilon": self.years.life_epsilon}
        if self.pooled:
            result |= {
                "auc_pooled": _mean(self.pooled),
                "auc_alone": _mean(self.elsewhere),
                "auc_within_pooled": _over(hospitals, "auc_pooled"),
                "auc_within_alone": _over(hospitals, "auc_alone"),
                "auc_within_finished": _over(hospitals, "auc_finished"),
            }
            if self.study.data.outcome is None:
                told = calibration(self.calibrated) if self.calibrated else None
                result |= {
                    "calibration_published": told,
                    "calibration_finished": calibration(self.finished),
                    "calibration_pooled": calibration(self.pooled),
                }
            result["verdict"] = verdict(
                result,
                self._gains(),
                self._means_stated(),
                measure=self.measure,
                patients=sum(one["patients"] for one in hospitals.values()),
                unit=self.study.data.quantity.unit if self.study.data.quantity else "",
            )
        return result

    def _further(self) -> dict[str, Any]:
        """Return what is known of an outcome other than yes or no, means over the tests."""
        data, stated = self.study.data, means_of(self.stated)
        both = zip(self.stated, self.finished_states, strict=False)
        finished = means_of([one for published, one in both if published])  # of the same patients
        if data.times is not None:
            at = [{"horizon": horizon} for horizon in data.times.horizons]
            return {"horizons": listed(at, stated, finished)}
        if data.classes is not None:
            of = [{"class": name} for name in data.classes.classes]
            return {"classes": listed(of, stated, finished, quality="auc")}
        if data.quantity is not None:
            found = listed([{}], stated, finished, quality="explained")
            return {"values": found[0] if found else None}
        return {}

    def _means_stated(self) -> dict[str, list[Mean] | None]:
        """Return what is known of each risk or value, by model; None of one that states none."""
        both = {"published": means_of(self.stated), "finished": means_of(self.finished_states)}
        names = risks_of(self.study)
        return {
            model: None
            if found is None
            else [
                Mean(name, one.predicted, one.observed)
                for name, one in zip(names, found, strict=True)
            ]
            for model, found in both.items()
        }

    @property
    def verdict(self) -> list[str] | None:
        """Sentences on who gains and whether risks can be believed; None without comparisons."""
        found: list[str] | None = self.document.get("verdict")
        return found


def _own(tests: Sequence[Scores], hospital: int) -> list[Scores]:
    """Return the tests of one hospital's patients that have records of both classes."""
    own = [test.of(hospital) for test in tests]
    return [test for test in own if test.has_both_classes]


def _enough(tests: Sequence[Scores]) -> bool:
    """Return whether the tests together have the patients of each class that an interval needs."""
    if not tests:
        return False
    scores, labels, patients, hospitals = (
        np.concatenate(one)
        for one in zip(*((t.scores, t.labels, t.patients, t.hospitals) for t in tests), strict=True)
    )
    first = tests[0]
    return Scores(scores, labels, patients, hospitals, first.codes, first.kind).has_interval


def _mean(tests: Sequence[Scores]) -> float:
    return statistics.fmean(test.auc for test in tests)


def _over(hospitals: dict[str, dict[str, Any]], name: str) -> float | None:
    """Return the mean over the hospitals that have the value."""
    known = [found[name] for found in hospitals.values() if found[name] is not None]
    return statistics.fmean(known) if known else None


def _tested(tests: Sequence[Scores], hospital: int, *, events: bool) -> dict[str, int]:
    """Count the different patients, and if there are ``events`` those with a record that has it."""
    own = [test.of(hospital) for test in tests]
    patients = np.concatenate([test.patients for test in own])
    if not events:
        return {"patients": len(np.unique(patients))}
    ill = np.concatenate([test.patients[test.had_event] for test in own])
    return {"patients": len(np.unique(patients)), "positive": len(np.unique(ill))}
