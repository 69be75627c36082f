"""Whether a published model has passed a gate: on its own card, or in a later one's result."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from flo.privacy.releases.gate_decision import Verdict
from flo.published.gate_result import GateResult, read_gate
from flo.published.model_card import ModelCard, PublishedModel, paths_of

GATE = ".gate.json"  # ending of a gate's signed result
MOST_GATES = 20  # results of one candidate that are read


def verdicts(
    model: PublishedModel, results: Iterable[GateResult], coordinators: Sequence[str]
) -> list[Verdict]:
    """Return the verdicts on a model: its card's, then those of results that are about it.

    Raises TrustError: a result is not signed by a key of these coordinators, or not its study's.
    """
    found: list[Verdict] = []
    if model.card.gate is not None:
        found.append(model.card.gate.comparison(model.study).verdict)
    for result in results:
        study = result.check(*coordinators)
        if study.gate is not None and study.gate.candidate == model.card.digest:
            found.append(result.sums.comparison(study).verdict)
    return found


def has_passed(verdicts: Sequence[Verdict]) -> bool:
    """Return whether a gate was passed and none failed."""
    return "pass" in verdicts and "fail" not in verdicts


def beside(path: Path) -> list[GateResult]:
    """Return the unchecked results in the folder of a model that either of its files names."""
    folder = paths_of(path)[0].parent
    return [read_gate(file) for file in sorted(folder.glob(f"*{GATE}"))[:MOST_GATES]]


def names(result: GateResult, card: ModelCard) -> bool:
    """Return whether an unchecked result says that this card's model is its candidate."""
    return f'"candidate":"{card.digest}"' in result.study
