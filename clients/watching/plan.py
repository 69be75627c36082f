"""What a hospital does by itself when a monitor raises an alarm: decided by a person, signed.

    tell       the desk, the command and the metrics say it; nothing else happens
    finish     the same, and the desk asks for a finish at home (``flo model finish``)
    fall back  the version that was in use before answers again
    stop       no version answers

Without a plan, alarms only tell. A plan that is not stricter than before is a decision of a person
like any other; what it does can be undone by putting the version into use again.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator

from flo.clients.prediction.signed_decision import SignedDecision
from flo.clients.watching.alarm import Key
from flo.documents.document import Document
from flo.published.model_states import Why
from flo.study.names import Words
from flo.study.terms import Identifier

Action = Literal["tell", "finish", "fall back", "stop"]
About = Literal["outcomes", "columns", "risks", "service", "hospitals"]
_STRICTEST: tuple[Action, ...] = ("stop", "fall back", "finish", "tell")
_ABOUT: dict[str, About] = {
    "outcomes": "outcomes",
    "column": "columns",
    "risk": "risks",
    "slow": "service",
    "late": "service",
    "hospitals": "hospitals",
}
USUAL_FOLLOW_UP = 30  # days
_Time = Annotated[str, StringConstraints(max_length=40)]


class Response(Document):
    """What is done about alarms of one kind."""

    about: About
    action: Action


class WatchPlan(SignedDecision):
    """``name``: of the model, for all its versions. ``follow_up_days``: after an answer, until its
    outcome is known of everybody. ``by``: the person who decided, ``why``: in their words."""

    PURPOSE = "watch-plan"
    schema_version: Literal[1] = 1
    name: Identifier
    follow_up_days: Annotated[int, Field(ge=0, le=3650)] = USUAL_FOLLOW_UP
    responses: Annotated[tuple[Response, ...], Field(max_length=5)] = ()
    by: Words
    why: Why
    time: _Time

    @field_validator("responses")
    @classmethod
    def _each_once(cls, responses: tuple[Response, ...]) -> tuple[Response, ...]:
        if len({one.about for one in responses}) != len(responses):
            raise ValueError("one kind of alarm has two responses")
        return responses

    def action(self, keys: list[Key]) -> Action:
        """Return the strictest action that alarms about these ask for."""
        by_about = {one.about: one.action for one in self.responses}
        asked = {by_about.get(_ABOUT[key.kind], "tell") for key in keys}
        return next((action for action in _STRICTEST if action in asked), "tell")
