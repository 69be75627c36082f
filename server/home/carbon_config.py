"""``[carbon]`` of coordinator.toml: the grids of the hospitals, and the power of their machines."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from flo.carbon.grams import WATTS
from flo.documents.document import Document
from flo.documents.time_zones import ZoneName
from flo.study.terms import Identifier

_Path = Annotated[str, StringConstraints(min_length=1, max_length=1000)]


class GridConfig(Document):
    """Files of a grid's carbon intensity, in the coordinator's folder or anywhere.

    ``past``: measured; it is replaced as time goes on. ``ahead``: foreseen by somebody else, for
    the day ahead; without one the same hours of the last seven days are the forecast. ``zone``: of
    times without an offset.
    """

    past: _Path
    ahead: _Path | None = None
    zone: ZoneName = "UTC"


class CarbonConfig(Document):
    """``watts``: of one hospital's machine while a round is under way. ``grid``: of all hospitals
    that ``grids`` does not name."""

    watts: Annotated[float, Field(gt=0, le=100_000)] = WATTS
    grid: GridConfig | None = None
    grids: Annotated[dict[Identifier, GridConfig], Field(max_length=1000)] = Field(
        default_factory=dict
    )
