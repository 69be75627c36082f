"""What signing adds to a monitor: the published model that it watches, and its earlier periods."""

from __future__ import annotations

from collections.abc import Collection

from flo.errors import StudyError
from flo.server.studies.ancestors import CardOf
from flo.server.studies.gated import described, refuse_incomparable
from flo.study.document import UNDER_WAY, Study
from flo.study.monitor import MOST_PERIODS


def with_watched_model(
    study: Study, earlier: Collection[tuple[Study, str]], card_of: CardOf
) -> Study:
    """Return the study with a description of the model that it watches, and its earlier periods.

    ``earlier``: all signed studies in the order of signing, each with its status. The series of a
    model has all of its monitors, and those that the study adds: a coordinator that was restored
    may have lost some.

    Raises:
        StudyError: the model is unknown, erased or of other columns, or states no calibrated risks;
        an earlier period has other terms or is under way; there are too many; or the study states
        another model, or leaves out a period. TrustError: the card is not signed.
    """
    monitor = study.monitor
    if monitor is None:
        return study
    card, other = card_of(monitor.model)
    refuse_incomparable(study, other, "monitor")
    if card.calibration is None:
        raise StudyError(
            f"monitor: the model of {other.name}, version {other.version}, states no calibrated "
            "risks, so outcomes cannot be compared with them",
            hint="watch a model whose evaluation calibrated it: `flo model show` says so",
        )
    before = _earlier_periods(study, earlier)
    for one, status in before:
        assert one.monitor is not None
        title = f"monitor: period {one.monitor.period} of this model, {one.name}:{one.version},"
        if status in UNDER_WAY:
            raise StudyError(
                f"{title} is {status}: one period is released at a time",
                hint=f"wait for it, or flo study stop {one.name}:{one.version}",
            )
        try:
            monitor.refuse_other_terms(one.monitor)
        except ValueError as error:
            raise StudyError(
                f"monitor: {error}", hint="use the terms of the first period"
            ) from None
    known = [one.digest for one, _ in before]
    periods = list(monitor.earlier) or known
    if monitor.models and monitor.models != (described(monitor.model, other),):
        raise StudyError(
            "monitor: the study describes another model than its card does",
            hint="leave models out of [monitor]: they are filled in",
        )
    if [one for one in periods if one in known] != known:
        raise StudyError(
            f"monitor: earlier leaves out periods that were signed here, or their order: {known}",
            hint="leave earlier out of [monitor]: it is filled in. State it only to add periods "
            "that hospitals name and this coordinator has lost",
        )
    if len(periods) >= MOST_PERIODS:
        raise StudyError(
            f"monitor: this would be period {len(periods) + 1} of the model, limit {MOST_PERIODS}",
            hint="train a new version, and watch that",
        )
    return study.with_watched(described(monitor.model, other), periods)


def _earlier_periods(
    study: Study, signed: Collection[tuple[Study, str]]
) -> list[tuple[Study, str]]:
    """Return the monitors of the same model that were signed before this study."""
    assert study.monitor is not None
    found = []
    for one, status in signed:
        if (one.name, one.version) == (study.name, study.version):
            break
        if one.monitor and one.monitor.model == study.monitor.model:
            found.append((one, status))
    return found
