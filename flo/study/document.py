"""The study: the one signed document that determines every later step.

The coordinator writes a study as TOML. This module validates it and identifies it by the SHA-256 of
its canonical bytes. Sites approve that digest; one changed byte makes another study. All of its
content is public to its partners: declared sizes are rounded, and bounds and codebooks never come
from patients. A study with a ``[survey]`` counted patients in FLO 0.2; none is run any more.

    study = load(Path("study.toml"))
    study.digest

``flo.privacy.accounting.plan`` derives the σ that a study implies.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from flo.documents import canonical
from flo.documents.document import Document, problems
from flo.errors import StudyError
from flo.study import identifier_patterns, networks, versions
from flo.study.columns import CellColumn, ImageColumn, tells_who
from flo.study.features import input_names
from flo.study.gate import ComparedModel, Gate
from flo.study.lineage import Ancestor, Continues
from flo.study.monitor import Monitor
from flo.study.names import Text
from flo.study.packs import SEQUENCE_MODELS, Model, Pack
from flo.study.schema import Schema
from flo.study.statistics import Statistics
from flo.study.statistics_columns import check_columns
from flo.study.terms import (
    MOST_HOSPITALS,
    Evaluation,
    Hospital,
    Identifier,
    Limits,
    MechanismSettings,
    Purpose,
    Survey,
    largest_delta,
)
from flo.study.tolerance import MOST_THAT_SURVIVE, Tolerance, most_dropouts, usual_dropouts

SCHEMA_VERSION = 4
_USUAL_VERSION: Literal[3] = 3  # of a study that does not state one
MAX_STUDY_BYTES = 256 * 1024
MOST_SQUARED_INPUTS = 1000
_PARTS_OF_ONE_STUDY = (
    "model",
    "evaluation",
    "survey",
    "statistics",
    "continues",
    "gate",
    "monitor",
)
_OF_YES_OR_NO = ("survey", "statistics", "continues", "gate", "monitor")
PLACEHOLDER = "Write here"  # prefix of texts still to be written; never signed
UNDER_WAY = ("offered", "running", "paused")  # statuses that may still spend budget


class Study(Document):
    """A whole study. Equal studies have equal ``canonical_bytes`` and so equal ``digest``."""

    schema_version: Literal[1, 2, 3, 4] = _USUAL_VERSION
    name: Identifier
    version: Annotated[int, Field(ge=1)]
    purpose: Text
    legal_basis: Text
    expires: date
    hospitals: Annotated[tuple[Hospital, ...], Field(min_length=1, max_length=MOST_HOSPITALS)]
    data: Schema
    model: Model
    mechanism: MechanismSettings
    evaluation: Evaluation
    survey: Survey | None = None
    statistics: Statistics | None = None
    continues: Continues | None = None
    gate: Gate | None = None
    monitor: Monitor | None = None
    limits: Limits

    @model_validator(mode="before")
    @classmethod
    def _usual_values_of_its_version(cls, document: Any) -> Any:
        return versions.with_usual_values(document)

    @model_validator(mode="after")
    def _consistent(self) -> Study:
        ids = [hospital.id for hospital in self.hospitals]
        if len(set(ids)) != len(ids):
            raise ValueError("a hospital id appears twice")
        prints = [hospital.fingerprint for hospital in self.hospitals if hospital.fingerprint]
        if len(set(prints)) != len(prints):
            raise ValueError("two hospitals have the same fingerprint")
        largest = largest_delta(self.largest_size)
        if self.mechanism.delta > largest:
            raise ValueError(
                f"delta {self.mechanism.delta:g} is larger than the rule min(1e-6, 1/(100 n)) "
                f"allows for these hospitals: {largest:g}"
            )
        if self.limits.minimum_cohort > len(ids):
            raise ValueError(
                f"minimum_cohort {self.limits.minimum_cohort} exceeds the {len(ids)} hospitals"
            )
        if self.schema_version < 4 and (self.data.sequence or self.data.encoders):
            part = "sequence" if self.data.sequence else "encoder"
            raise ValueError(f"{part}: only in a study of schema_version = 4")
        self._refuse_columns_that_do_not_fit()
        if (
            self.trains and self.mechanism.algorithm != "fedavgm"
        ):  # a release has a product for each pair of inputs
            algorithm, inputs = self.mechanism.algorithm, len(input_names(self.data))
            trained = ("logistic", "mlp") if algorithm == "whitened" else ("logistic",)
            if self.model.kind not in trained:
                raise ValueError(
                    f"{algorithm} trains a model of kind {' or '.join(trained)}, not a "
                    f"{self.model.kind}"
                )
            if inputs > MOST_SQUARED_INPUTS:
                raise ValueError(
                    f"{algorithm} with {inputs} inputs, limit {MOST_SQUARED_INPUTS}: its sum "
                    "contains a product for each pair of inputs"
                )
        if self.schema_version < 4 and any(hospital.expected for hospital in self.hospitals):
            raise ValueError(
                "expected: a study of schema_version 1 to 3 uses all patients; write "
                "schema_version = 4, or leave it out"
            )
        if self.schema_version >= 3 and self.evaluation.bins:
            raise ValueError(
                "evaluation: scores are not counted in bins since schema_version 3; leave out bins"
            )
        if self.mechanism.sampling != 1 and self.data.records_per_patient == "many":
            raise ValueError(
                'sampling below 1 needs records_per_patient = "one": with many records, step time '
                "would reveal which patient was sampled"
            )
        if self.schema_version == 1 and (
            self.model.kind != "logistic"
            or self.survey
            or self.evaluation.subgroups
            or self.mechanism.sampling != 1
            or self.data.most_records != 64
            or self.masked
            or self.mechanism.algorithm != "fedavgm"
        ):
            raise ValueError(
                "schema_version 1 supports only fedavgm of logistic models in full batches, and no "
                "masking, survey, subgroups or most_records"
            )
        self._refuse_sums_that_are_not_secure()
        self._refuse_what_has_no_time()
        self._refuse_what_cannot_be_continued()
        if self.statistics:
            if self.schema_version < 4 or self.survey or self.continues:
                raise ValueError(
                    "statistics: only in a study of schema_version = 4, without [survey] and "
                    "[continues]"
                )
            check_columns(self.statistics, self.data)
        if self.gate:
            if self.schema_version < 4 or self.survey or self.statistics:
                raise ValueError(
                    "gate: only in a study of schema_version = 4, without [survey] and [statistics]"
                )
            if self.gate.candidate and self.continues:
                raise ValueError("gate: a study with a candidate trains nothing to continue")
            self.gate.refuse_unfit(self.data)
            for one in self.gate.models:
                self.in_form_of(one)._refuse_model_that_does_not_fit()
        if self.monitor:
            if self.schema_version < 4 or self.survey or self.statistics or self.gate:
                raise ValueError(
                    "monitor: only in a study of schema_version = 4, without [survey], "
                    "[statistics] and [gate]"
                )
            if self.continues:
                raise ValueError("monitor: a study that watches a model trains none to continue")
            for one in self.monitor.models:
                one.refuse_unfit(self.data)
                self.in_form_of(one)._refuse_model_that_does_not_fit()
        return self

    def _refuse_sums_that_are_not_secure(self) -> None:
        ids = self.hospitals
        if self.masked and (len(ids) < 2 or self.limits.minimum_cohort < 2):
            raise ValueError(
                "masking needs at least two hospitals and minimum_cohort = 2 or more; or set "
                'masking = "off" in [mechanism]: the coordinator then sees each hospital\'s sums'
            )
        if self.mechanism.aggregation != "sum" and (self.masked or self.limits.minimum_cohort < 3):
            raise ValueError(
                f"aggregation = {self.mechanism.aggregation!r} compares each hospital's own sums: "
                'it needs masking = "off" and minimum_cohort = 3 or more'
            )
        if self.mechanism.noise == "distributed":
            if not self.masked and self.schema_version != 1:
                raise ValueError('distributed noise protects only sums, so it needs masking = "on"')
            if self.mechanism.sampling != 1:
                raise ValueError("distributed noise is proven for sampling = 1 only")
            if len(ids) < 2:
                raise ValueError("distributed noise needs at least two hospitals")
            if not len(ids) - self.dropouts > self.colluders:
                raise ValueError(
                    f"distributed noise needs hospitals - dropouts > colluders, got "
                    f"{len(ids)} - {self.dropouts} > {self.colluders}"
                )
            most = most_dropouts(len(ids), self.colluders)
            if self.schema_version >= 4 and self.dropouts > most:
                raise ValueError(
                    f"dropouts = {self.dropouts}, limit {most}: sums of {len(ids)} hospitals, of "
                    f"which {self.colluders} may collude, survive no more dropouts"
                )

    def _refuse_what_has_no_time(self) -> None:
        """Raise ValueError for parts that know no outcome but yes and no."""
        if self.data.outcome is None:
            return
        if self.schema_version < 4:
            raise ValueError("outcome: only in a study of schema_version = 4")
        others = [name for name in _OF_YES_OR_NO if getattr(self, name) is not None]
        if others:
            raise ValueError(
                f"outcome: a study of {self.data.outcome.kind} has no [{others[0]}]; leave one of "
                "the two out (docs/outcomes.md says what takes which outcome)"
            )
        if self.mechanism.algorithm == "least-squares":
            raise ValueError(
                'outcome: least-squares knows only yes and no; write algorithm = "whitened"'
            )

    def _refuse_what_cannot_be_continued(self) -> None:
        if self.continues is None:
            return
        if self.schema_version < 4:
            raise ValueError("continues: only a study of schema_version = 4 continues a model")
        if self.survey:
            raise ValueError("continues: a survey has no model")
        if self.model.kind != "logistic" and len(self.continues.models) > 1:
            raise ValueError(
                f"continues: {len(self.continues.models)} models, limit 1 for a model of kind "
                f"{self.model.kind}: the mean of networks that were trained apart is no model"
            )

    def _refuse_model_that_does_not_fit(self) -> None:
        """Raise ValueError if the model does not take the columns."""
        images = [column for column in self.data.columns if isinstance(column, ImageColumn)]
        if isinstance(self.model, Pack):
            found = networks.output(self.model.network, len(input_names(self.data)))
            wanted = (self.data.outputs,)
            if found != wanted:
                raise ValueError(f"the pack's output has shape {found}, not {wanted}, the log odds")
            self._refuse_frozen_layers_that_do_not_fit()
        if self.model.kind in SEQUENCE_MODELS and self.data.sequence is None:
            raise ValueError(f"a model of kind {self.model.kind} needs [data.sequence]")
        raw = [column for column in images if column.is_raw]
        if self.model.kind == "cnn" and not raw:
            raise ValueError("a cnn needs an image column, without scattering and encoder")
        if raw and len(self.data.columns) != 1:
            raise ValueError(
                "an image column without scattering or encoder must be the only column"
            )
        if self.mechanism.augmentation != "none" and not raw:
            raise ValueError("augmentation needs an image column without scattering and encoder")

    def _refuse_frozen_layers_that_do_not_fit(self) -> None:
        """Raise ValueError where others than the hospitals would need frozen layers' numbers."""
        if self.frozen_file is None:
            return
        if not self.data.encoders:
            raise ValueError("numbers: frozen layers need a column with an encoder")
        if self.gate or self.monitor:
            raise ValueError("numbers: a pack with frozen layers has no gate and no monitor")

    def _refuse_columns_that_do_not_fit(self) -> None:
        self._refuse_model_that_does_not_fit()
        for name in self.evaluation.subgroups:
            self.data.category(name)
        if len(set(self.evaluation.subgroups)) != len(self.evaluation.subgroups):
            raise ValueError("evaluation: a subgroup appears twice")
        wanted = self.survey.columns if self.survey else ()
        known = {column.name for column in self.data.columns if isinstance(column, CellColumn)}
        if len(set(wanted)) != len(wanted) or not set(wanted) <= known:
            raise ValueError("survey: columns must be number or category columns, each once")

    @property
    def purposes(self) -> tuple[Purpose, ...]:
        """Purposes of the study's releases, in order."""
        if self.survey:
            return ("survey",)
        if self.statistics:
            return self.statistics.purposes
        if self.compares:
            return ("gate",)
        if self.monitor:
            return ("monitor",)
        trained: tuple[Purpose, ...] = ("training", "evaluation")
        if self.mechanism.algorithm == "whitened":
            trained = ("moments", *trained)
        return (*trained, "gate") if self.gate else trained

    @property
    def largest_size(self) -> int:
        """The largest declared size among the hospitals."""
        return max(hospital.declared_size for hospital in self.hospitals)

    @property
    def largest_epsilon(self) -> float:
        """The largest ε that the document states."""
        if asked := self.survey or self.statistics or self.monitor:
            return asked.epsilon
        gate = self.gate.epsilon if self.gate else 0.0
        return max(self.mechanism.epsilon, self.evaluation.epsilon, gate)

    def has_expired(self, today: date) -> bool:
        """Return whether the last day is over.

        The study can still be signed, approved and run on that day.
        """
        return self.expires < today

    @property
    def colluders(self) -> int:
        """b: how many hospitals may collude with the coordinator under distributed noise."""
        chosen = self.mechanism.colluders
        return max(1, (len(self.hospitals) - 1) // 3) if chosen is None else chosen

    @property
    def dropouts(self) -> int:
        """d: how many hospitals may be missing from a sum under distributed noise.

        Usually one in five where sums survive dropouts, else one; none of fewer than four.
        """
        chosen, hospitals = self.mechanism.dropouts, len(self.hospitals)
        if chosen is not None:
            return chosen
        if self.schema_version >= 4:
            return usual_dropouts(hospitals)
        return 1 if hospitals >= 4 else 0

    @property
    def tolerance(self) -> Tolerance | None:
        """The dropouts that the study's secure sums survive; None if they survive none."""
        hospitals, missing = len(self.hospitals), len(self.hospitals) - self.cohort_floor
        if self.schema_version < 4 or self.mechanism.noise == "local" or not missing:
            return None
        if hospitals > MOST_THAT_SURVIVE:  # shares are hospitals² in each round
            return None
        return Tolerance(hospitals, self.colluders, missing)

    @property
    def lineage(self) -> tuple[Ancestor, ...]:
        """Every study whose patients shaped the models that it continues."""
        return self.continues.lineage if self.continues else ()

    @property
    def trains(self) -> bool:
        """Whether it trains a model: it does not only count, compare models or watch one."""
        asks = self.survey or self.statistics or self.monitor
        return asks is None and not self.compares

    @property
    def compares(self) -> bool:
        """Whether it compares two models that were published before, and does nothing else."""
        return self.gate is not None and self.gate.candidate is not None

    @property
    def published_models(self) -> tuple[str, ...]:
        """Cards of the models, published before, that it compares or watches."""
        if self.monitor:
            return (self.monitor.model,)
        return self.gate.cards if self.gate else ()

    @property
    def frozen_file(self) -> str | None:
        """SHA-256 of the file with the numbers of the model's frozen layers, if it has some."""
        return self.model.numbers if isinstance(self.model, Pack) else None

    @property
    def asked_models(self) -> tuple[ComparedModel, ...]:
        """Descriptions of ``published_models``; none before the study is signed."""
        if self.monitor:
            return self.monitor.models
        return self.gate.models if self.gate else ()

    @property
    def by_generation(self) -> bool:
        """Whether it uses, of each hospital's patients, those whose budget has room for it."""
        return self.schema_version >= 4

    @property
    def masked(self) -> bool:
        """Whether the coordinator can read only sums over a whole cohort."""
        return self.mechanism.masking == "on"

    @property
    def cohort_floor(self) -> int:
        """The fewest hospitals that a round may have."""
        if self.mechanism.noise == "local":
            return self.limits.minimum_cohort
        return max(self.limits.minimum_cohort, len(self.hospitals) - self.dropouts)

    def may_sum(self, hospitals: Sequence[str]) -> bool:
        """Return whether a published sum can be of these hospitals: partners, enough, each once."""
        named = set(hospitals)
        partners = {hospital.id for hospital in self.hospitals}
        return named <= partners and self.cohort_floor <= len(named) == len(hospitals)

    @property
    def canonical_bytes(self) -> bytes:
        """The bytes to sign, hash, send and store: canonical JSON in its version's form."""
        return canonical.encode(versions.in_its_form(self.model_dump(mode="json")))

    @property
    def digest(self) -> str:
        """SHA-256 of ``canonical_bytes``: the identifier of the study everywhere."""
        return canonical.digest(self.canonical_bytes)

    @property
    def unwritten(self) -> list[str]:
        """Those of purpose and legal basis that still have the scaffold's text."""
        names = ("purpose", "legal_basis")
        return [name for name in names if getattr(self, name).startswith(PLACEHOLDER)]

    def refuse_unfinished(self) -> None:
        """Raise StudyError while purpose or legal basis has the scaffold's text."""
        if self.unwritten:
            texts = [f"{name} ({getattr(self, name)!r})" for name in self.unwritten]
            raise StudyError(
                f"not written yet: {' and '.join(texts)}",
                hint="write it in plain language: stewards read it to decide",
            )

    def refuse_identifying(self) -> None:
        """Raise StudyError if a header, a codebook or the label's name identifies patients."""
        steps = self.data.sequence.columns if self.data.sequence else ()
        found = {column.name: tells_who(column) for column in (*steps, *self.data.looked_at)}
        lines = [f"column {name!r} {rule}" for name, rule in found.items() if rule]
        lines += [
            f"the outcome's column {name!r} has a name that suggests an identifier"
            for name in self.data.outcome_columns
            if identifier_patterns.of_header(name) and not found.get(name)
        ]
        if lines:
            raise StudyError(
                "a study must not identify patients: " + "; ".join(lines),
                hint="the hospitals' quality gate refuses such a column, too",
            )

    def hospital(self, hospital_id: str) -> Hospital:
        """Return the partner with that id. Raises StudyError if the study does not name it."""
        for hospital in self.hospitals:
            if hospital.id == hospital_id:
                return hospital
        names = ", ".join(hospital.id for hospital in self.hospitals)
        raise StudyError(f"the study does not name hospital {hospital_id!r}; it names {names}")

    def planned_at(self, hospitals: Iterable[str]) -> dict[str, int]:
        """Return how many patients the study plans to use at each of these of its hospitals."""
        planned = {hospital.id: hospital.planned for hospital in self.hospitals}
        return {name: planned[name] for name in hospitals}

    def with_fingerprints(self, fingerprints: dict[str, str]) -> Study:
        """Return a copy whose hospitals without a fingerprint have theirs from ``fingerprints``."""
        document = self.model_dump(mode="json")
        for hospital in document["hospitals"]:
            hospital["fingerprint"] = hospital["fingerprint"] or fingerprints.get(
                hospital["id"], ""
            )
        return from_document(document)

    def with_lineage(self, lineage: Sequence[Ancestor]) -> Study:
        """Return a copy that states all that the models which it continues have learnt from."""
        document = self.model_dump(mode="json")
        document["continues"]["lineage"] = [one.model_dump(mode="json") for one in lineage]
        return from_document(document)

    def with_questions(self, name: str, epsilon: float, *parts: dict[str, Any]) -> Study:
        """Return a study of statistics with these parts, of this one's hospitals and columns.

        It has this study's name and ``-name``. Raises StudyError: the parts do not fit the columns.
        """
        asked = {"statistics": {"epsilon": epsilon, "parts": list(parts)}}
        return from_document(self.without_training(name) | asked)

    def without_training(self, name: str) -> dict[str, Any]:
        """Return a draft, as parsed TOML, of this one's hospitals and columns that asks nothing.

        It has this study's name and ``-name``, and its noise and masks.
        """
        document = self.model_dump(mode="json", exclude_none=True)
        kept = ("noise", "masking", "delta", "colluders", "dropouts")
        mechanism = {
            one: document["mechanism"][one] for one in kept if one in document["mechanism"]
        }
        if self.mechanism.noise == "distributed" and not self.tolerance:  # of an older schema
            document["limits"]["minimum_cohort"] = len(self.hospitals)
            mechanism["dropouts"] = 0
        for one in _PARTS_OF_ONE_STUDY:
            document.pop(one, None)
        title = f"{self.name[: 62 - len(name)]}-{name}"
        about = {"schema_version": SCHEMA_VERSION, "name": title, "mechanism": mechanism}
        return document | about

    def in_form_of(self, other: ComparedModel) -> Study:
        """Return this study with the model and the columns of one that it compares or watches.

        It is for scoring only: nothing else of it was checked.
        """
        known = {column.name: column for column in self.data.columns}
        columns = tuple(known[name] for name in other.columns)
        sequence = self.data.sequence.of_last(columns) if self.data.sequence else None
        data = self.data.model_copy(update={"columns": columns, "sequence": sequence})
        return self.model_copy(update={"data": data, "model": other.model})

    def with_compared(self, models: Sequence[ComparedModel]) -> Study:
        """Return a copy whose gate describes the models that it names."""
        document = self.model_dump(mode="json")
        document["gate"]["models"] = [one.model_dump(mode="json") for one in models]
        return from_document(document)

    def with_watched(self, model: ComparedModel, earlier: Sequence[str]) -> Study:
        """Return a copy whose monitor describes its model and names the earlier periods."""
        document = self.model_dump(mode="json")
        filled = {"models": [model.model_dump(mode="json")], "earlier": list(earlier)}
        return from_document(document | {"monitor": document["monitor"] | filled})

    def without_gate(self) -> Study:
        """Return a copy that trains and evaluates its model, and compares it with none."""
        return from_document(self.model_dump(mode="json") | {"gate": None})

    def with_epsilon(self, epsilon: float) -> Study:
        """Return a validated copy with another ε for every part of the study."""
        document = self.model_dump(mode="json")
        for part in ("mechanism", "evaluation", "survey", "statistics", "gate", "monitor"):
            if document[part]:
                document[part]["epsilon"] = epsilon
        return from_document(document)

    def with_mechanism(self, **changes: Any) -> Study:
        """Return a validated copy with other mechanism settings."""
        document = self.model_dump(mode="json")
        document["mechanism"].update(changes)
        return from_document(document)


def from_document(document: Any, *, what: str = "study") -> Study:
    """Validate a parsed study.

    Raises:
        StudyError: one line per problem, with the field's path.
    """
    usual = _USUAL_VERSION
    version = document.get("schema_version", usual) if isinstance(document, dict) else usual
    if type(version) is not int or not 1 <= version <= SCHEMA_VERSION:
        raise StudyError(
            f"{what}: schema_version {version!r} is not supported; this version reads 1 to "
            f"{SCHEMA_VERSION}",
            hint="install a newer version of FLO",
        )
    try:
        return Study.model_validate(document)
    except ValidationError as error:
        raise StudyError(f"{what} is not valid:\n{problems(error, document)}") from error
