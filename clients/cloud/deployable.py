"""A published version, compiled for a function or an endpoint of the hospital's own.

A finished model is not private, so it stays on the hospital's machine. What is deployed passes the
same checks as what ``flo model serve`` answers with: it is not withdrawn, the site's policy allows
it, and the signed golden cases of its card have the same scores and risks, first here, then where
it was deployed, before anybody is answered.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flo.clients.connection.coordinator_api import CoordinatorApi
from flo.clients.home.site_home import SiteHome
from flo.clients.mapping.mapping_file import mapping_of
from flo.clients.prediction import allowed, flag_decisions, versions
from flo.clients.prediction.flag_rule import FlagRule
from flo.clients.prediction.scoring_ways import made_up_records
from flo.clients.prediction.version_decisions import fetch_approved
from flo.clients.serving.decided import mappings, unfit
from flo.clients.serving.onnx_export import exported
from flo.clients.serving.settings import ServedModel
from flo.clients.sources.mapping import record_fields
from flo.errors import RefusedError, TrustError, UsageError
from flo.published.compile import compiled
from flo.published.golden import cells, compare_answers
from flo.published.model_card import FINISHED, PublishedModel
from flo.published.model_states import ModelVersion
from flo.published.onnx import places_of
from flo.scoring.compiled import CompiledModel, opened
from flo.scoring.request import answer
from flo.study.encoders import require_no_encoder
from flo.study.synthetic import encoded

_NEAR, _NEAR_OF_NETWORKS = 1e-9, 1e-5  # of two machines' answers
Ask = Callable[[Mapping[str, Any]], Mapping[str, Any]]  # a request -> its answer, with `status`


@dataclass(frozen=True)
class Deployable:
    """A version to deploy. ``document``, ``onnx``: as ``flo.scoring`` reads them. ``answers``: of
    the golden cases, as they were computed here. ``notes``: what a person should know before."""

    name: str
    model: ModelVersion
    title: str
    document: dict[str, Any] = field(repr=False)
    onnx: bytes = field(repr=False)
    published: PublishedModel = field(repr=False)
    answers: tuple[dict[str, Any], ...] = field(repr=False)
    notes: tuple[str, ...] = ()

    def refuse_other_answers(self, ask: Ask, where: str) -> None:
        """Ask for each golden case.

        Raises TrustError: an answer is another one than the compiled model gave here.
        """
        near = _NEAR_OF_NETWORKS if self.onnx else _NEAR
        records = made_up_records(self.published.study.data)
        for number, (record, expected) in enumerate(zip(records, self.answers, strict=True), 1):
            found = ask({"record": record})
            if not _alike(expected, found, near):
                raise TrustError(
                    f"{where} answers a made-up patient, number {number}, otherwise than the model "
                    f"does here: {_short(found)}, not {_short(expected)}",
                    hint="this version gets no requests; deploy again, and tell the coordinator if "
                    "it happens again",
                )


def in_use(home: SiteHome, name: str) -> Deployable:
    """Return the version of a model that is in use at this hospital.

    Raises:
        UsageError: none is in use, it is a finished model, or it cannot be compiled here.
        RefusedError: it is withdrawn, or has no golden cases. TrustError: golden cases have other
        scores here.
    """
    if FINISHED in name:
        raise UsageError(
            f"{name} is finished here, and not private: it stays on this hospital's machines",
            hint="deploy the published model, or answer with flo model serve",
        )
    found = allowed.open_in_use(home, name)
    late = f"nothing was heard of withdrawals since {found.late}" if found.late else ""
    return _made(home, name, found.path, found.model, late)


def approved(home: SiteHome, api: CoordinatorApi, wanted: str) -> Deployable:
    """Return a version, NAME:VERSION, that the coordinator approved, fetched now.

    Raises as ``in_use``, and as ``fetch_approved``.
    """
    name, _, path = fetch_approved(home, api, wanted)
    model = allowed.opened(home, path)
    allowed.refuse_forbidden(home, path, model)
    return _made(home, name, path, model, "")


def refuse_withdrawn(home: SiteHome, name: str, study: str) -> None:
    """Raise RefusedError if the version of this study was withdrawn, here or by the coordinator."""
    withdrawal = versions.read(home).withdrawal(name, study)
    if withdrawal is not None:
        raise RefusedError(
            f"version {withdrawal.model.version} of {name} is withdrawn: {withdrawal.why}",
            hint=f"flo model deploy {name} deploys the version in use here; with --remove, none",
        )


def is_withdrawn(home: SiteHome, name: str, study: str) -> bool:
    """Return whether the version of this study was withdrawn, here or by the coordinator."""
    return versions.read(home).withdrawal(name, study) is not None


def _made(home: SiteHome, name: str, path: Path, model: PublishedModel, late: str) -> Deployable:
    require_no_encoder(model.study, "a deployed model")
    if model.card.golden is None:
        raise RefusedError(
            f"the card of {model.title} states no golden cases, so nobody can check its answers",
            hint="ask the coordinator to publish the model again",
        )
    onnx, places = b"", None
    if not model.is_linear:
        onnx = exported(path, tuple(home.read_coordinator().fingerprints))
        if not onnx:
            raise UsageError(
                f"{model.title} is a network, which cannot be exported here",
                hint="pip install 'flo-federated[onnx]'",
            )
        places = places_of(onnx, model.study)
    rule = flag_decisions.read(home, model)
    _, table = mappings(home, model.study, ServedModel())
    document = compiled(
        model,
        fields=record_fields(table.columns) if table else None,
        rule=(rule.column, [one.risk for one in rule.groups] or [rule.threshold]) if rule else None,
        places=places,
    )
    own = opened(document, onnx)
    answers = tuple(_said(own, record) for record in made_up_records(model.study.data))
    _refuse_other_scores(model, answers)
    _refuse_other_flags(model, rule, answers)
    version = ModelVersion(
        version=model.study.version, study=model.study.digest, card=model.card.digest
    )
    notes = tuple(filter(None, (late, *_notes(home, model, rule))))
    return Deployable(name, version, model.title, document, onnx, model, answers, notes)


def _notes(home: SiteHome, model: PublishedModel, rule: FlagRule | None) -> Iterator[str]:
    if rule is None and flag_decisions.other_version_flags(home, model):
        yield (
            f"nobody is flagged: nobody decided it for version {model.study.version}, and another "
            "version flags patients; flo model flag decides"
        )
    wrong = unfit(mapping_of(home, model.study), model.study)
    if wrong:
        yield f"rows of this site's table are not answered: mapping.toml, {'; '.join(wrong[:3])}"


def _refuse_other_flags(
    model: PublishedModel, rule: FlagRule | None, answers: Sequence[Mapping[str, Any]]
) -> None:
    """Raise TrustError if golden cases are flagged otherwise than by the site's rule."""
    if rule is None:
        return
    inputs = encoded(model.study.data, cells(model.study.data))
    expected = rule.flagged(model, inputs, model.log_odds(inputs)).tolist()
    for said, there in zip(answers, expected, strict=True):
        if said["risk"] is not None and said["flagged"] != there:
            raise TrustError(
                f"{model.title}, compiled, flags a made-up patient of risk {said['risk']:.6g} "
                "otherwise than this hospital's rule does",
                hint="nothing was deployed; tell FLO's developers",
            )


def _said(own: CompiledModel, record: Mapping[str, Any]) -> dict[str, Any]:
    found = answer(own, {"record": record})
    return {"status": found.status, **found.said}


def _refuse_other_scores(model: PublishedModel, answers: Sequence[Mapping[str, Any]]) -> None:
    """Raise TrustError if golden cases have other scores or risks than the card states."""
    golden = model.card.golden
    assert golden is not None
    refused = [said for said in answers if said["status"] != 200]
    if refused:
        raise TrustError(f"{model.title}: a made-up patient is refused: {_short(refused[0])}")
    scores = np.array([float(said["score"]) for said in answers])
    found = compare_answers(model.study, golden, scores, [said["risk"] for said in answers])
    wrong = [case for case in found if not case.same]
    if wrong:
        raise TrustError(
            f"{model.title}, compiled: {len(wrong)} of {len(found)} golden cases have another "
            f"score or risk than the card states; the first is {wrong[0].name!r}",
            hint="flo model check MODEL lists every way of scoring here",
        )


def _alike(expected: Mapping[str, Any], found: Mapping[str, Any], near: float) -> bool:
    if set(expected) != set(found):
        return False
    for name, there in expected.items():
        here = found[name]
        if isinstance(there, float) and isinstance(here, float):
            if not math.isclose(there, here, rel_tol=near, abs_tol=near):
                return False
        elif there != here or type(there) is not type(here):
            return False
    return True


def _short(said: Mapping[str, Any]) -> str:
    """Return an answer about a made-up patient, or why there is none, in a few words."""
    if "score" in said:
        return f"score {said['score']}, risk {said.get('risk')}"
    return str(said.get("error", "an answer of another form"))[:200]
