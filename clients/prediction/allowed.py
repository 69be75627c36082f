"""Refuse a published model that this hospital may not use: not gated as its policy asks, withdrawn.

The commands and the desk ask here before they score a patient.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flo.clients.home.site_home import SiteHome
from flo.clients.prediction import versions
from flo.clients.prediction.gate_rule import refuse_ungated
from flo.errors import RefusedError
from flo.published.gate_passed import beside
from flo.published.model_card import PublishedModel, paths_of


@dataclass(frozen=True)
class InUse:
    """The version of a model that answers here, and the ``path`` of its card.

    ``late``: since when nothing was heard of withdrawals, if that is long ago; else "".
    """

    path: Path
    model: PublishedModel
    late: str


def open_in_use(home: SiteHome, name: str) -> InUse:
    """Open the version of a model that is in use here.

    If it is withdrawn while it is opened, the version that took its place is opened. Raises
    UsageError: none is in use. And as ``refuse_forbidden``.
    """
    path = versions.current_path(home, name)
    model = opened(home, path)
    try:
        return InUse(path, model, refuse_forbidden(home, path, model))
    except RefusedError:
        if versions.current_path(home, name) == path:
            raise
    return open_in_use(home, name)


def opened(home: SiteHome, path: Path) -> PublishedModel:
    """Open a model of this site's coordinator by the path of its card, cached while unchanged."""
    coordinators = home.read_coordinator().fingerprints
    return home.read_unchanged(lambda: PublishedModel.open(path, *coordinators), *paths_of(path))


def refuse_forbidden(home: SiteHome, path: Path, model: PublishedModel) -> str:
    """Return since when nothing was heard of withdrawals, if that is long ago; else "".

    ``path``: of the model's card. Raises PolicyError: the policy asks for a gate that it has not
    passed. RefusedError: it is withdrawn.
    """
    refuse_ungated(home, model, beside(path, model.card))
    return refuse_withdrawn(home, model)


def refuse_withdrawn(home: SiteHome, model: PublishedModel) -> str:
    """As ``refuse_forbidden``, of withdrawals only."""
    found = versions.read(home)
    versions.refuse_withdrawn(home, model)
    return found.late(versions.LATE) if found.names else ""
