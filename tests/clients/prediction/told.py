"""A coordinator that shows decisions on two versions of a model, and gives both."""

from __future__ import annotations

import base64
import json
from typing import Any, cast

from flo.clients.connection.coordinator_api import CoordinatorApi
from flo.clients.home.site_home import SiteHome
from flo.clients.prediction import version_decisions, version_news, versions
from flo.documents.canonical import digest
from flo.keys.identity import Identity
from flo.published.model_states import ModelStates, ModelVersion, Said
from flo.published.monitor_result import MonitorResult
from tests.flo.published_models import COORDINATOR, Made
from tests.flo.published_models import made as made_model

TIME = "2026-11-29T10:00:00.000+00:00"
ADA = Said("Ada", "the units of creatinine were wrong", TIME)
WHY = "our committee said yes"


def version_of(model: Made) -> ModelVersion:
    study = model.open().study
    return ModelVersion(version=study.version, study=study.digest, card=model.card.digest)


class Told:
    """A coordinator that shows these decisions and gives these models."""

    def __init__(self, *models: Made) -> None:
        self.models, self.states = models, list[ModelStates]()
        self.lies = False  # shows results of any model
        self.asked, self.results = list[str](), list[MonitorResult]()

    def call(self, name: str, body: Any) -> Any:
        self.asked.append(name)
        if name == "studies":
            opened = [model.open() for model in self.models]
            return [
                {
                    "study": one.study.canonical_bytes.decode(),
                    "signature": one.card.study_signature,
                    "status": "done",
                }
                for one in opened
            ]
        if name == "models":
            (found,) = (m for m in self.models if m.open().study.digest == body["study"])
            return {
                "card": found.card.to_bytes().decode(),
                "tensors": base64.b64encode(found.tensors).decode(),
            }
        if name == "monitor":
            known = set(body["known"])
            new = [
                one
                for one in self.results
                if (self.lies or body["card"] in one.study)
                and digest(one.study.encode()) not in known
            ]
            return {"result": new[0].model_dump(mode="json") if new else None}
        assert name == "states"
        return {"states": [json.loads(one.to_bytes()) for one in self.states]}

    def show(self, *several: ModelStates, signer: Identity = COORDINATOR) -> None:
        self.states = [states.signed(signer) for states in several]


ONE, TWO = made_model("logistic"), made_model("gated", run="run-2")  # versions 1 and 9 of ``tiny``
V1, V9 = version_of(ONE), version_of(TWO)


def approved(*models: ModelVersion) -> ModelStates:
    states = ModelStates(name="tiny")
    for model in models:
        states = states.approved(model, ADA).promoted(model, ADA)
    return states


def told_of_both() -> Told:
    """Both versions of ``tiny`` were made current, 9 last."""
    coordinator = Told(ONE, TWO)
    coordinator.show(approved(V1, V9))
    return coordinator


def api(told: Told) -> CoordinatorApi:
    return cast(CoordinatorApi, told)


def ask(home: SiteHome, told: Told) -> versions.Versions:
    return version_news.ask(home, api(told))


def promote(home: SiteHome, told: Told, wanted: str) -> ModelVersion:
    return version_decisions.promote(home, api(told), wanted, WHY)[1]


def both_in_use(home: SiteHome, told: Told) -> None:
    """Version 1 was used, then version 9."""
    promote(home, told, "tiny:1")
    promote(home, told, "tiny:9")


def withdrawn(told: Told, version: ModelVersion) -> None:
    (states,) = told.states
    told.show(states.withdrawn(version, ADA))
