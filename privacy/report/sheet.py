"""A study in plain language, for a steward's review and for ``flo study check``.

Words and numbers only; callers decide the layout.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from flo.keys.identity import format_fingerprint
from flo.privacy.accounting.accounting import true_positive_rate
from flo.privacy.accounting.life_budget import LifetimeBudget
from flo.privacy.accounting.plan import Plan, combined_variance
from flo.privacy.gradients.augmentation import copies
from flo.privacy.mechanisms.mechanisms import Mechanism
from flo.privacy.releases import concordance, evaluation, survey
from flo.privacy.releases.score_waves import LENGTH, expected_half_width
from flo.privacy.report.sheet_gate import gate_chances, gate_leaves
from flo.privacy.report.sheet_monitor import monitor_chances, monitor_leaves
from flo.privacy.report.sheet_statistics import statistics_leaves
from flo.privacy.report.wording import (
    ACCOUNTANT,
    ADJACENCY,
    ENCODERS_NOT_COVERED,
    LIFE,
    MASKING,
    MAX_BUDGET_RATIO,
    NOT_COVERED,
    UNIT,
    trust,
)
from flo.study import identifier_patterns
from flo.study.classes import Classes
from flo.study.columns import (
    CategoryColumn,
    CellColumn,
    Column,
    ImageColumn,
    NoteColumn,
    NumberColumn,
    tells_who,
)
from flo.study.document import Study
from flo.study.encoders import Encoder, NoteEncoder
from flo.study.models import layers
from flo.study.packs import Pack
from flo.study.quantity import Quantity
from flo.study.terms import Hospital
from flo.study.time_to_event import TimeToEvent
from flo.study.wording import changed_to, code_in_words, measure_of

_LATER = "their lineage is added at launch, from their cards"
ASSUMED_HOLD_OUT, ASSUMED_PREVALENCE = 0.3, 0.5
MANY_CODES, WIDE_BOUNDS = 100, 1e6


@dataclass(frozen=True)
class Section:
    """A heading and its lines, each a (label, text) pair."""

    heading: str
    lines: tuple[tuple[str, str], ...]


def sections(
    study: Study, life: LifetimeBudget | None = None, unconfirmed: Collection[str] | None = None
) -> list[Section]:
    """Return the review sheet of a study.

    ``life``: the reader's own budget, if there is one. ``unconfirmed``: partners whose fingerprints
    the reader cannot rely on.
    """
    return [
        _agreement(study),
        *_continues(study),
        _partners(study, unconfirmed),
        _columns(study),
        _leaves(study),
        _cost(study, life),
    ]


def _agreement(study: Study) -> Section:
    return Section(
        "The study",
        (
            ("study", f"{study.name}, version {study.version}"),
            ("digest", _digest(study)),
            ("purpose", study.purpose),
            ("legal basis", study.legal_basis),
            ("valid until", f"{study.expires} (UTC)"),
            ("a record is", study.data.record + _how_many(study)),
        ),
    )


def _continues(study: Study) -> list[Section]:
    """Say what the study's model has learnt before, and what that means for a patient."""
    if study.continues is None:
        return []
    named = set(study.continues.models)
    lines = [
        (
            f"{ancestor.name}, version {ancestor.version}",
            f"ε = {ancestor.epsilon:.4f} at δ = {ancestor.delta:g} for one patient; "
            + ("this study continues its model" if ancestor.card in named else "learnt before")
            + (f"; life budget at most {ancestor.life.epsilon:g}" if ancestor.life else "")
            + f"; worth {ancestor.worth:.4g} (n·ε², by which models are combined)"
            + f"; card {ancestor.card[:16]}, study {ancestor.study[:16]}",
        )
        for ancestor in study.lineage
    ]
    if not study.lineage:
        lines = [("models", f"{', '.join(card[:16] for card in study.continues.models)}; {_LATER}")]
    return [
        Section(
            "Earlier models that it continues",
            (
                *lines,
                (
                    "how",
                    "if all rounds are trained, the coordinator moves the earlier model towards "
                    "what this study learns, by a share that follows from the studies' texts; that "
                    "costs no further ε",
                ),
                ("a patient's life", LIFE),
            ),
        )
    ]


def _digest(study: Study) -> str:
    """Return the digest to approve, which covers the hospitals' keys and needs all of them."""
    if all(hospital.fingerprint for hospital in study.hospitals):
        return study.digest
    return "known after launch, which adds the hospitals' keys to the study"


def _how_many(study: Study) -> str:
    if study.data.records_per_patient == "one":
        return ""
    return f"; a patient's first {study.data.most_records} are used, as one contribution"


def _partners(study: Study, unconfirmed: Collection[str] | None) -> Section:
    def about(hospital: Hospital) -> str:
        key = (
            format_fingerprint(hospital.fingerprint)
            if hospital.fingerprint
            else "key is added at launch"
        )
        warning = "; NOT confirmed yet" if hospital.id in (unconfirmed or ()) else ""
        patients = f"about {hospital.declared_size} patients"
        if hospital.expected is not None:
            patients += f", of whom the study plans to use {hospital.expected}"
        return f"{patients}, {key}{warning}"

    return Section(
        "Who takes part (confirm their keys on a call)",
        tuple((hospital.id, about(hospital)) for hospital in study.hospitals),
    )


def _encoded(encoder: Encoder) -> str:
    """Return what a frozen encoder does, with the digests of its files."""
    what = ""
    if isinstance(encoder, NoteEncoder):
        what = f", of the first {encoder.tokens} tokens of tokenizer {encoder.tokenizer}"
    return (
        f"becomes {encoder.features} numbers by the frozen encoder {encoder.name!r}, file "
        f"{encoder.file}{what}{'' if encoder.scaled else ', left as they are'}"
    )


def _columns(study: Study) -> Section:
    lines = _outcome(study)
    for column in study.data.of_events:
        rule = "refused" if column.missing == "refuse" else "allowed, with an indicator"
        if isinstance(column, NumberColumn):
            text = f"{column.minimum:g} to {column.maximum:g} {column.unit}; missing {rule}"
            if column.hinges:
                bends = ", ".join(f"{hinge:g}" for hinge in column.hinges)
                text += f"; the model may bend at {bends}"
        elif isinstance(column, ImageColumn):
            text = (
                f"image of {column.height} × {column.width} × {column.channels}, "
                f"{column.minimum:g} to {column.maximum:g}; missing {rule}"
            )
            if column.scattering is not None:
                text += f"; transformed by fixed wavelets of {column.scattering} scales"
            if column.encoder is not None:
                text += f"; {_encoded(column.encoder)}"
        elif isinstance(column, NoteColumn):
            text = f"free text; missing {rule}; {_encoded(column.encoder)}"
        else:
            text = f"{', '.join(code_in_words(column, c) for c in column.codes)}; missing {rule}"
        if column.about:
            text = f"{column.about}: {text}"
        if isinstance(column, CellColumn) and column.changeable_to is not None:
            way = f" who is {column.changeable_from}" if isinstance(column, NumberColumn) else ""
            text += f"; care can bring a patient{way} to {changed_to(column)}"
        lines.append((f"column {column.name!r}", text))
        lines += [(f"column {column.name!r}, LOOK CLOSELY", text) for text in _could_tell(column)]
    if sequence := study.data.sequence:
        names = ", ".join(repr(column.name) for column in sequence.columns)
        each = (
            f"each of the last {sequence.steps} periods of {sequence.days} days; the last value of "
            "a period counts"
            if sequence.step == "period"
            else f"each of the last {sequence.steps} days with an event, within {sequence.days} "
            "days, and how many days ago it was"
        )
        lines.append(("history", f"{names}: {each}; nothing after the record's day"))
    return Section("Columns used", tuple(lines))


def _outcome(study: Study) -> list[tuple[str, str]]:
    """Return lines about the label and what is foreseen."""
    if quantity := study.data.quantity:
        levels = ", ".join(f"{one:g}" for one in quantity.levels)
        what = f"{study.data.label!r}: a {quantity.kind} of {quantity.unit}"
        bounds = f"{quantity.levels[0]:g} to {quantity.levels[-1]:g}"
        column = study.data.value_column
        assert column is not None
        close = [("the label, LOOK CLOSELY", text) for text in _could_tell(column)]
        return [
            ("the label", f"{what}, {bounds}; missing refused"),
            *close,
            ("levels", f"{levels} {quantity.unit}, from public knowledge"),
        ]
    if classes := study.data.classes:
        column = study.data.value_column
        assert column is not None
        what = f"{study.data.label!r}: one of {', '.join(classes.classes)}; missing refused"
        close = [("the label, LOOK CLOSELY", text) for text in _could_tell(column)]
        return [("the label", what), *close]
    label = ("the label", f"{study.data.label!r} (0 or 1)")
    outcome = study.data.times
    if outcome is None:
        return [label]
    horizons = ", ".join(f"{one:g}" for one in outcome.horizons)
    last = f"{outcome.horizons[-1]:g} {outcome.unit}"
    return [
        label,
        (
            "the outcome",
            f"the time until {study.data.label} = 1, or until last seen: column {outcome.time!r}, "
            f"in {outcome.unit}; nothing after {last} is used",
        ),
        (
            "risks at",
            f"{horizons} {outcome.unit}; {outcome.expected:.0%} of patients are expected to have "
            f"the event by {last}, from public knowledge",
        ),
    ]


def _could_tell(column: Column) -> list[str]:
    """Return warnings about a column that contains, or could contain, identifying data."""
    if rule := tells_who(column):
        return [f"this column {rule}"]
    if isinstance(column, CategoryColumn):
        words = (*column.codes, *column.meanings)
        found = [
            f"codes that look like {kind}" for kind in identifier_patterns.identifying_codes(words)
        ]
        if identifier_patterns.names_people(column.meanings):
            found.append("meanings of codes that look like names of people")
        if len(column.codes) > MANY_CODES:
            found.append(
                f"{len(column.codes)} codes: check that none of them identifies a patient or a few"
            )
        return found
    if isinstance(column, NumberColumn) and column.maximum - column.minimum >= WIDE_BOUNDS:
        return ["bounds wide enough for a record number or a date of birth"]
    if isinstance(column, NoteColumn):
        return ["free text names patients: it is read at the hospital only, and no word leaves it"]
    return []


def _leaves(study: Study) -> Section:
    lines = {
        **_released(study),
        "never": "records, exact counts, losses, batch sizes, error details",
        "trust model": trust(study),
        "masking": MASKING[study.mechanism.noise, study.mechanism.masking],
        **_together(study),
    }
    return Section("What leaves the hospital", tuple(lines.items()))


def _released(study: Study) -> dict[str, str]:
    if study.survey:
        return _survey_leaves(study)
    if study.compares:
        return gate_leaves(study) | {"model": "no model is trained"}
    if study.monitor:
        return monitor_leaves(study) | {"model": "no model is trained"}
    if study.statistics:
        return statistics_leaves(study)
    return _training_leaves(study) | (gate_leaves(study) if study.gate else {})


def _together(study: Study) -> dict[str, str]:
    """Return the assumptions that distributed noise needs."""
    if study.mechanism.noise == "local":
        return {}
    count, floor = len(study.hospitals), study.cohort_floor
    needed = f"a round has at least {floor} of them, and each adds more noise if one is missing"
    if floor == count:
        needed = "a round needs all of them"
    return {
        "if some collude": f"up to b = {study.colluders} of the {count} hospitals may tell the "
        "coordinator which noise they added: the noise of the others is enough for the ε below; "
        f"{needed}. A partner whose key is not confirmed could be one of them",
        "if masks broke": "if someone could read each hospital's upload separately, ε = "
        f"{Plan.of(study).worst_case(study).epsilon:.4f}",
    }


def _training_leaves(study: Study) -> dict[str, str]:
    plan = Plan.of(study)
    trained = plan.purpose("training").mechanism
    chance = study.mechanism.sampling
    shared = study.mechanism.noise == "distributed" and study.masked
    where = "is added to the sum over all hospitals, a share by each" if shared else "is added"
    who = "each patient" if chance == 1 else f"each patient, chosen with probability {chance:g},"
    groups, bins = study.evaluation.subgroups, study.evaluation.bins
    released = f"one noisy release of {LENGTH} sums that describe how scores are distributed"
    if bins:
        released = f"one noisy histogram of {bins} score bins"
    by = f", by {', '.join(groups)} (noise × √{len(groups)})" if groups else ""
    sums = "1 noisy sum" if study.mechanism.steps == 1 else f"{study.mechanism.steps} noisy sums"

    def noisy(what: str, mechanism: Mechanism) -> str:
        return (
            f"{what} of {mechanism.length} numbers; {who} contributes a vector clipped to "
            f"{mechanism.norm:.6g}; noise of σ = {mechanism.noise_multiplier:.4f} times that clip "
            f"{where}"
        )

    lines = _pack(study)
    if "moments" in plan.purposes:
        lines["second moments"] = (
            f"{noisy('first, 1 noisy sum', plan.purpose('moments').mechanism)}. The "
            "numbers are products of every two inputs, without the label; from the noisy sum the "
            "coordinator computes how training scales the inputs"
        )
    lines |= {"training": noisy(sums, trained), "clipping": _clipping(study)}
    if study.mechanism.algorithm != "least-squares":
        lines["runs on"] = (
            "the hospital's CPU or NVIDIA GPUs, as its site.toml says; `flo doctor` there shows "
            "which. Noise is always drawn on the CPU"
        )
    if (count := copies(study)) > 1:
        lines["augmentation"] = (
            f"a contribution is the mean over {count} flips and turns of each image, then clipped"
        )
    lines["evaluation"] = (
        f"{released} for each {_class_of(study)}{by}, on held-out patients who are not used for "
        "training"
    )
    return lines


def _class_of(study: Study) -> str:
    """Return what an evaluation's sums are of: one of several groups of patients by outcome."""
    match study.data.outcome:
        case None:
            return "class"
        case TimeToEvent():
            return f"of {study.data.label_codes} groups of patients, by period and event"
        case Quantity():
            return f"of the {study.data.label_codes} levels"
        case Classes():
            return f"of the {study.data.label_codes} classes, and for all others beside it"


def _clipping(study: Study) -> str:
    """Describe a patient's contribution, and how it is kept apart from other patients'."""
    if study.mechanism.algorithm == "least-squares":
        return (
            "least squares in one round; a patient's contribution is the products of their inputs "
            "with each other and with the label, summed over their records, computed for each "
            "patient separately"
        )
    kinds = ", ".join(dict.fromkeys(layer.kind for layer in layers(study) if layer.parameters))
    on = ", on scaled inputs," if study.mechanism.algorithm == "whitened" else ""
    return (
        f"{study.model.kind} model of {kinds}: each patient's gradient{on} is computed from one "
        "pass (book-keeping), if a test at the site shows that no patient affects another's; "
        "otherwise one patient at a time"
    )


def _pack(study: Study) -> dict[str, str]:
    """Describe the model pack, if the study trains one."""
    if not isinstance(study.model, Pack):
        return {}
    return {
        "model pack": f"{study.model.name}: {study.model.in_words}; a list of layers that FLO "
        f"builds, without any code; digest {study.model.digest}"
    }


def _survey_leaves(study: Study) -> dict[str, str]:
    columns = ", ".join(survey.layout(study))
    return {"survey": f"noisy counts of all patients by each of {columns}; {survey.NONE}"}


def _cost(study: Study, life: LifetimeBudget | None) -> Section:
    plan = Plan.of(study)
    delta = study.mechanism.delta
    releases = ", ".join(
        f"{purpose} {part.planned} + {part.allowance} retries"
        for purpose, part in plan.purposes.items()
    )
    touched = "training and evaluation use different patients"
    if study.compares or study.monitor:
        touched = "only held-out patients take part, on whom no model was trained"
    elif not study.trains:
        touched = "every patient is counted, so both halves of the budget are charged"
    elif "moments" in plan.purposes:
        touched = (
            "second moments (moments) and training use the same patients, and their costs add up; "
            "evaluation uses others"
        )
    if study.trains and study.gate:
        touched += ". Evaluation and gate use the same patients, and their costs add up"
    at_two = plan.epsilon_at_two_hospitals(study.mechanism.noise)
    survived = study.tolerance.dropouts if study.tolerance else 0
    if survived:
        releases += (
            f"; a sum survives that {survived} of {len(study.hospitals)} hospitals are missing"
        )
    lines = {
        "the study's own ε": f"{plan.epsilon:.4f} at δ = {delta:g}: the smaller ε is, the less the "
        "published results can reveal about any one patient",
        "whom it protects": f"{UNIT}; {ADJACENCY}",
        "how it is counted": f"{ACCOUNTANT}; a second method (PLD, Gaussian equivalent) gives "
        f"ε = {plan.epsilon_pld:.4f}",
        "releases": f"{releases}; {touched}",
        "at two hospitals": f"a patient known to two of them has ε = {at_two:.2f} at the same δ",
        "an attacker's gain": "an attacker who accepts 1 % false alarms identifies at most "
        f"{true_positive_rate(plan.epsilon, delta):.1%} of the patients who took part",
    }
    own = max(plan.shares(LifetimeBudget.create(study.largest_epsilon, delta)).values())
    if own > MAX_BUDGET_RATIO:
        lines["an expensive schedule"] = (
            f"the study takes {own:.1f} times as much of a life budget as a full-batch study of "
            "the same ε; more steps or a larger sample cost less"
        )
    for budget in [life] if life else [LifetimeBudget.create(e, delta) for e in (0.9, 0.5)]:
        shares = plan.shares(budget)
        text = f"training {shares['training']:.1%}, evaluation {shares['evaluation']:.1%}"
        if max(shares.values()) > 1:
            text = f"does not fit: the study needs {max(shares.values()):.1f} times that budget"
        lines[f"share of life ε = {budget.epsilon:g}"] = text
    held_out = ASSUMED_HOLD_OUT * sum(hospital.planned for hospital in study.hospitals)
    if study.trains:
        lines["expected result"] = _expected(study, plan, held_out)
    if study.gate:
        lines["expected of the gate"] = gate_chances(study, held_out)
    if study.monitor:
        lines["expected of the monitor"] = monitor_chances(study, held_out)
    of_encoders = (ENCODERS_NOT_COVERED,) if study.data.encoders else ()
    not_covered = (("not covered", text) for text in (*NOT_COVERED, *of_encoders))
    return Section("What it costs in privacy", (*lines.items(), *not_covered))


def _expected(study: Study, plan: Plan, patients: float) -> str:
    if study.evaluation.bins:
        return (
            "an AUC with a wide interval, because score bins hide the order of the patients in one "
            "bin. A study of schema_version = 3 has no bins and estimates the AUC of the scores"
        )
    of_each = combined_variance(study, plan.purpose("evaluation"), len(study.hospitals))
    variance = evaluation.variance_of_everyone(study, of_each)
    match study.data.outcome:
        case None:
            width = expected_half_width(patients, ASSUMED_PREVALENCE, variance)
        case TimeToEvent() as times:
            width = concordance.expected_half_width(patients * times.planned, variance)
        case Quantity() as quantity:
            levels = quantity.codes
            width = concordance.expected_half_width_of_levels(patients, levels, variance)
        case Classes():
            width = evaluation.expected_half_width_of_classes(study, patients, variance)
    further = study.data.times or study.data.classes
    what = "at horizons" if study.data.times else "by class"
    hidden = f"; the card states no AUC {what}: the subgroups have too many codes"
    return (
        f"{measure_of(study)} ± {width:.2f} (90 % interval, noise and sampling, if about "
        f"{patients:.0f} patients are held out"
        f"{', and more if a class is rare' if study.data.classes else ''})"
        f"{hidden if further and not evaluation.fits_a_card(study) else ''}"
    )
