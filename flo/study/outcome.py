"""Outcomes other than yes or no, which is the label itself."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from flo.study.classes import Classes
from flo.study.quantity import Quantity
from flo.study.time_to_event import TimeToEvent

Outcome = Annotated[TimeToEvent | Quantity | Classes, Field(discriminator="kind")]
