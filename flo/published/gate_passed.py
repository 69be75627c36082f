"""Whether a published model has passed a gate: on its own card, or in a later one's result."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from flo.errors import TrustError
from flo.privacy.releases.gate_decision import Verdict
from flo.published.gate_result import GateResult, GateSums, read_gate
from flo.published.model_card import ModelCard, PublishedModel, paths_of
from flo.study.document import Study

GATE = ".gate.json"  # ending of a gate's signed result
MOST_GATES = 100  # results of one candidate that are sent


def gates_of(
    model: PublishedModel, results: Iterable[GateResult], coordinators: Sequence[str]
) -> list[tuple[Study, GateSums]]:
    """Return the gates of a model: its card's, if it has one, and those of the results.

    Raises TrustError: a result is not signed by a key of these coordinators, not its study's, or
    not about this model.
    """
    found = [(model.study, model.card.gate)] if model.card.gate is not None else []
    for result in results:
        study = result.check(*coordinators)
        if study.gate is None or study.gate.candidate != model.card.digest:
            raise TrustError(f"the result of {study.name} is about another candidate")
        found.append((study, result.sums))
    return found


def has_passed(verdicts: Sequence[Verdict]) -> bool:
    """Return whether a gate was passed and none failed."""
    return "pass" in verdicts and "fail" not in verdicts


def beside(path: Path, card: ModelCard) -> list[GateResult]:
    """Return the unchecked results about a model, in the folder of either of its files.

    Only files that contain the card's digest are read. Raises UsageError: one is
    malformed or too large.
    """
    folder, digest = paths_of(path)[0].parent, card.digest.encode()
    files = [file for file in sorted(folder.glob(f"*{GATE}")) if digest in file.read_bytes()]
    return [result for result in map(read_gate, files) if _names(result, card)]


def _names(result: GateResult, card: ModelCard) -> bool:
    return f'"candidate":"{card.digest}"' in result.study
