"""The models that a study continues: only finished models of this coordinator, of the same form.

A study names them by the SHA-256 of their signed cards. A card binds the tensors, and the study
with its own lineage, so the lineage of the new study follows from the cards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from flo.errors import StudyError
from flo.published.model_card import ModelCard
from flo.study.document import Study
from flo.study.lineage import MOST_ANCESTORS, Ancestor
from flo.study.schema import Schema
from flo.study.usual import worth
from flo.study.wording import means_the_same
from flo.study.yes_or_no import require_yes_or_no

CardOf = Callable[[str], tuple[ModelCard, Study]]
_MEANING = ("label", "records_per_patient")  # of a model's scores


def with_lineage(study: Study, card_of: CardOf) -> Study:
    """Return the study with the lineage of the models that it continues, if it continues any.

    Raises:
        StudyError: a model is unknown, erased, unfinished or of another form; two of them learnt
        from one study; or the study states another lineage. TrustError: a card is not signed.
    """
    if study.continues is None:
        return study
    found = list[Ancestor]()
    for digest in study.continues.models:
        card, other = card_of(digest)
        refuse_unfit(study, card, other)
        found += [*other.lineage, _ancestor(digest, card, other)]
    _refuse_twice(found)
    if study.lineage and study.lineage != tuple(found):
        raise StudyError(
            "continues: the study states another lineage than that of its models",
            hint="leave lineage out of the study: it is filled in from the models' cards",
        )
    return study.with_lineage(found)


def _ancestor(digest: str, card: ModelCard, study: Study) -> Ancestor:
    return Ancestor(
        card=digest,
        study=study.digest,
        name=study.name,
        version=study.version,
        epsilon=card.epsilon,
        delta=card.delta,
        life=card.life,
        worth=worth(study),
    )


def refuse_unfit(study: Study, card: ModelCard, other: Study) -> None:
    """Raise StudyError unless the other study's model is finished, and of this study's form."""
    title = f"continues: the model of {other.name}, version {other.version},"
    require_yes_or_no(other, "a study that continues it")
    if card.rounds < other.mechanism.steps:
        raise StudyError(
            f"{title} is unfinished: {card.rounds} of {other.mechanism.steps} rounds",
            hint="run that study again, or continue another model",
        )
    if study.model != other.model:
        raise StudyError(
            f"{title} has another [model]: {_shown(other.model)}, and this study "
            f"{_shown(study.model)}",
            hint="only a model of the same form can be continued",
        )
    if difference := _difference(study.data, other.data):
        raise StudyError(
            f"{title} has other inputs or another outcome: {difference}",
            hint="copy [data] and [model] from that study, or leave out [continues]",
        )


def _difference(here: Schema, there: Schema) -> str:
    """Name the first difference between the inputs or the scores of two studies; "" if none."""
    for name in _MEANING:
        mine, theirs = getattr(here, name), getattr(there, name)
        if mine != theirs:
            return f"{name} is {theirs!r} there, and {mine!r} here"
    if [column.name for column in there.columns] != [column.name for column in here.columns]:
        return f"its columns are {', '.join(column.name for column in there.columns)}"
    for one, other in zip(there.columns, here.columns, strict=True):
        if not means_the_same(one, other):
            return f"column {one.name!r} is {_shown(one)} there, and {_shown(other)} here"
    return ""


def _shown(part: object) -> str:
    return str(part)[:300]


def _refuse_twice(lineage: Iterable[Ancestor]) -> None:
    found = list(lineage)
    studies = [ancestor.study for ancestor in found]
    for ancestor in found:
        if studies.count(ancestor.study) > 1:
            raise StudyError(
                f"continues: two of the models learnt from {ancestor.title}, which would count "
                "twice",
                hint="name only the latest model of a line",
            )
    if len(found) > MOST_ANCESTORS:
        raise StudyError(
            f"continues: the models learnt from {len(found)} studies, limit {MOST_ANCESTORS}"
        )
