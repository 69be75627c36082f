"""A model's card in plain language: words and numbers; callers decide the layout."""

from __future__ import annotations

from flo.documents.text import of_auc
from flo.keys.identity import fingerprint, format_fingerprint
from flo.privacy.releases.score_waves import Estimate
from flo.privacy.report.sheet import Section
from flo.privacy.report.wording import LIFE, of_life
from flo.published.further_estimates import further_estimates
from flo.published.gate_words import rows
from flo.published.model_card import BINS_HIDE, ModelCard, PublishedModel, Quality
from flo.published.stated_curves import stated
from flo.study.classes import Classes
from flo.study.document import Study
from flo.study.features import input_names
from flo.study.models import parameter_count
from flo.study.quantity import Quantity
from flo.study.time_to_event import TimeToEvent
from flo.study.wording import measure_of


def sections(model: PublishedModel) -> list[Section]:
    """Return what the card says: study, privacy, gate, evaluation, risks, and what was checked."""
    card, study = model.card, model.study
    life = f"; {of_life(card.life.epsilon, card.life.delta)}" if card.life else ""
    missing = ", ".join(card.without_extract)
    return [
        Section(
            "The model",
            (
                ("study", f"{study.name}, version {study.version}"),
                ("purpose", study.purpose),
                (
                    "score",
                    f"{_higher(study)}; a record is {study.data.record}",
                ),
                ("kind", f"{study.model.kind}, {parameter_count(study)} parameters"),
                ("inputs", ", ".join(input_names(study.data))[:2000]),
                ("rounds", f"{card.rounds} of {study.mechanism.steps}"),
                ("made", card.made),
            ),
        ),
        Section(
            "Privacy",
            (
                ("ε, δ", f"{card.epsilon:.4f}, {card.delta:g} for one patient of one hospital"),
                *([("a patient's life", f"{LIFE}{life}")] if card.life or study.continues else []),
                ("trust model", card.trust_model),
                ("report", card.report or "none: extracts were missing or contradicted each other"),
                ("without extract", missing or "none: every hospital's ledger is in the report"),
            ),
        ),
        *_lineage(study),
        *_gate(model),
        Section(
            "Noisy evaluation on patients who were never trained on",
            (
                (f"noisy {measure_of(study)}", quality_in_words(card.evaluation)),
                *_further(study, card),
                *((name, quality_in_words(found)) for name, found in card.subgroups.items()),
                *([("caution", BINS_HIDE)] if study.evaluation.bins else []),
            ),
        ),
        *_risks(study, card),
        Section(
            "Checked",
            (
                ("signed by", format_fingerprint(fingerprint(bytes.fromhex(card.coordinator)))),
                ("study digest", study.digest),
                ("card digest", f"{card.digest}{_continues(study)}"),
                ("file digest", card.file),
            ),
        ),
    ]


def _further(study: Study, card: ModelCard) -> list[tuple[str, str]]:
    """Return the AUC at each horizon or of each class, from the card's sums."""
    if card.evaluation is None:
        return []
    found = further_estimates(study, card)
    if found is None:
        what = "AUC at horizons" if study.data.times else "AUC by class"
        return [(what, "not stated: the study has too many codes of subgroups")]
    return [(name, _in_words(one)) for name, one in found.items()]


def _continues(study: Study) -> str:
    return "" if study.data.outcome else " (names this model in [continues] of a study)"


def _in_words(found: Estimate | Quality) -> str:
    return f"{of_auc(found.auc, found.low, found.high)} ({100 * found.level:.0f} % interval)"


def _higher(study: Study) -> str:
    """Return what a higher score means."""
    match study.data.outcome:
        case None:
            return f"likelier {study.data.label}"
        case TimeToEvent():
            return f"likelier {study.data.label} in each period between horizons"
        case Quantity():
            return f"a larger value of {study.data.label}"
        case Classes():
            return f"one for each class of {study.data.label}: likelier this class"


def _gate(model: PublishedModel) -> list[Section]:
    """Return what the gate of the model's own study says; nothing if it has none."""
    if model.study.gate is None:
        return []
    gate = model.card.gate
    if gate is None:
        return [Section("Release gate", (("verdict", "none: the run ended before its gate"),))]
    return [Section("Release gate", tuple(rows(model.study, gate.comparison(model.study))))]


def _lineage(study: Study) -> list[Section]:
    """Return the studies that the model learnt from before its own."""
    if not study.lineage:
        return []
    return [
        Section(
            "Lineage: the studies that it learnt from before",
            tuple(
                (
                    ancestor.title,
                    f"δ = {ancestor.delta:g}; "
                    + (f"life budget {ancestor.life.epsilon:g}; " if ancestor.life else "")
                    + f"card {ancestor.card}",
                )
                for ancestor in study.lineage
            ),
        )
    ]


def _risks(study: Study, card: ModelCard) -> list[Section]:
    """Return what the model's scores mean, by the card's calibration, at each horizon if any."""
    if card.calibration is None and not card.by_class:
        return [
            Section("Risks", (("calibration", "none: scores rank patients, and are no risks"),))
        ]
    return [
        Section(
            f"{one.title} ({100 * one.level:.0f} % bands, from the evaluation at no further ε)",
            (
                *((f"score {score:.3f}", words) for score, words in one.rows),
                ("meaning", f"right on average over all hospitals' patients, if {one.assumed}"),
            ),
        )
        for one in stated(study, card)
    ]


def quality_in_words(found: Quality | None) -> str:
    """Return an AUC with its interval, or that there is none."""
    if found is None:
        return "not evaluated"
    return _in_words(found)
