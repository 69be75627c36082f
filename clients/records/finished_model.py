"""Finished models of this hospital: sealed in the site's folder, and never sent.

A finished model depends on this hospital's patients without any noise, so it is **not private**.
It does not have the form of a published model (``flo.published``): the code that exports,
registers, sends or reports a model opens a signed card and its tensors, and it has neither.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from flo.clients.home.site_home import SiteHome
from flo.documents import canonical
from flo.documents.document import Document, parse
from flo.errors import MessageError, TrustError, UsageError
from flo.keys.claims import Digest
from flo.keys.keystore import read_secret, write_secret
from flo.published.model_card import FINISHED
from flo.storage.files import make_private_directory
from flo.study.classes import MOST_CLASSES
from flo.study.names import Text
from flo.study.terms import Identifier

NOT_PRIVATE = "not private: it and its figures stay in this hospital"
FOLDER = "finished"
TOO_FEW = "this hospital has too few patients to finish a model"
_LIMIT = 1 << 30
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{0,199}$")]
Share = Annotated[float, Field(ge=0, le=1)]
Difference = Annotated[float, Field(ge=-2, le=2)]


class LocalRisk(Document):
    """How right one risk that a model states is, or the value that it expects.

    ``of``: a horizon or a class, the unit of a value, or "" for yes or no. ``predicted`` and
    ``observed``: mean risk and share of patients who had it, by the life table if not all were
    followed; or mean expected value and mean value. They are None where this hospital's patients
    were not followed long enough, ``predicted`` in training and ``observed`` among those held out.
    ``error``: the Brier score of a risk, the root mean squared error of a value; None of the time
    to an event. ``curve``: the same two means, and the number of records, of groups of rising risk
    or expected value.
    """

    of: Text | Literal[""]
    error: Annotated[float, Field(ge=0)] | None
    predicted: float | None
    observed: float | None
    curve: tuple[tuple[float, float, int], ...]


class LocalFit(Document):
    """How well one model fits this hospital's held-out patients: exact, so not private.

    ``auc``: as ``FinishedModel.measure`` says; None if all held-out records are of one class.
    ``low`` and ``high``: its 95 % interval; None with fewer patients than
    ``flo.scores.metrics.FEWEST_FOR_INTERVAL`` of a class.
    """

    auc: Share | None
    low: Share | None
    high: Share | None
    risks: Annotated[tuple[LocalRisk, ...], Field(min_length=1, max_length=MOST_CLASSES)]

    @model_validator(mode="before")
    @classmethod
    def _of_schema_1(cls, fields: Any) -> Any:
        """Read the only risk of yes or no as schema 1 wrote it."""
        if not isinstance(fields, dict) or "brier" not in fields:
            return fields
        auc = {name: fields[name] for name in ("auc", "low", "high") if name in fields}
        risk = {name: value for name, value in fields.items() if name not in auc}
        return auc | {"risks": ({"of": "", "error": risk.pop("brier"), **risk},)}


class FinishedModel(Document):
    """One published model's last layer, refitted on this hospital's patients.

    ``name``: of the published model's files. ``model``: digest of its tensors. ``weights``: a model
    as of ``flo.clients.prediction.linear_fit``. ``measure``: what ``auc`` and ``gain`` are, AUC,
    macro AUC or concordance; AUC in schema 1. ``values``: whether it foresees values in a unit and
    no risks. ``known``: how many horizons, from the first on, patients were followed to, so that
    their risks are stated; None if all are. ``patients``: keyed hashes of everyone whose records
    were used, for training or testing. ``slope``, ``kept`` and ``penalty``: see
    ``flo.clients.prediction.refit.Refit``; a ``penalty`` of None is infinite. ``gain``: AUC of
    finished less alone, as (low, middle, high) of a 95 % interval; None as ``low`` is.
    """

    schema_version: Literal[1, 2] = 2
    name: Name
    study: Digest
    model: Digest
    population: Identifier
    made: str
    weights: Annotated[tuple[float, ...], Field(min_length=2, max_length=1_000_000)]
    measure: Text = "AUC"
    values: bool = False
    known: Annotated[int, Field(ge=1, le=MOST_CLASSES)] | None = None
    patients: tuple[Digest, ...]
    trained: Annotated[int, Field(ge=0)]
    tested: Annotated[int, Field(ge=0)]
    slope: float
    kept: Share
    penalty: float | None
    published: LocalFit
    finished: LocalFit
    alone: LocalFit
    gain: tuple[Difference, Difference, Difference] | None

    @property
    def fits(self) -> dict[str, LocalFit]:
        """The three fits by the name that screens use, in their order."""
        return {"published": self.published, "finished": self.finished, "alone": self.alone}

    def save(self, home: SiteHome) -> Path:
        """Seal it into the site's folder, replacing an earlier one of the same published model."""
        path = _path(home, self.name)
        make_private_directory(path.parent)
        write_secret(path, home.open_keystore(), _purpose(self.name), self.to_bytes())
        return path

    @classmethod
    def load(cls, home: SiteHome, name: str) -> FinishedModel:
        """Read the finished model of a published one. Raises UsageError if there is none."""
        path = _path(home, name)
        if not path.exists():
            raise UsageError(
                f"{name} is not finished at this hospital", hint="flo model finish MODEL"
            )
        data = read_secret(path, home.open_keystore(), _purpose(name))
        document = canonical.decode(data, limit=_LIMIT, what=str(path), values=_LIMIT)
        return parse(cls, document, str(path))


def finished_names(home: SiteHome) -> list[str]:
    """Return the names of the models that are finished here."""
    found = (home.directory / FOLDER).glob(f"*{FINISHED}")
    return sorted(path.name.removesuffix(FINISHED) for path in found if path.name[0] != ".")


def finished_called(home: SiteHome, wanted: str) -> str:
    """Return the name of the finished model that ``wanted`` names: in full, or its study alone.

    Raises:
        UsageError: no finished model has this name, or several have.
    """
    there = finished_names(home)
    found = [name for name in there if name == wanted or name.rpartition("-run-")[0] == wanted]
    if len(found) == 1:
        return found[0]
    raise UsageError(
        f"{wanted!r} names {len(found) or 'no'} models that are finished at this hospital",
        hint=f"there are: {', '.join(there)}" if there else "flo model finish MODEL",
    )


def finished_with(home: SiteHome, patients: Collection[str]) -> list[str]:
    """Return the names of the finished models for which records of these patients were used.

    ``patients``: keyed hashes of ids. A damaged model is among them, since its patients cannot be
    read; it can be finished again.
    """
    return [name for name in finished_names(home) if _may_hold(home, name, patients)]


def withdraw_finished(home: SiteHome, patients: Collection[str]) -> None:
    """Delete the models that ``finished_with`` names, and what a crash left behind.

    Hold ``decision_lock``, under which models are written.
    """
    for name in finished_with(home, patients):
        _path(home, name).unlink(missing_ok=True)
    for path in (home.directory / FOLDER).glob(f".*{FINISHED}*"):
        path.unlink(missing_ok=True)


def _may_hold(home: SiteHome, name: str, patients: Collection[str]) -> bool:
    try:
        return not set(patients).isdisjoint(FinishedModel.load(home, name).patients)
    except (TrustError, MessageError, UsageError):
        return True


def published_path(home: SiteHome, name: str) -> Path:
    """Return the path of the copy of the published tensors that a finished model refits."""
    return home.directory / FOLDER / f"{name}.safetensors"


def _path(home: SiteHome, name: str) -> Path:
    return home.directory / FOLDER / f"{name}{FINISHED}"


def _purpose(name: str) -> str:
    return f"finished model {name}"
