"""Refuse a published model that this hospital may not use: not gated as its policy asks, withdrawn.

The commands and the desk ask here before they score a patient.
"""

from __future__ import annotations

from pathlib import Path

from flo.clients.home.site_home import SiteHome
from flo.clients.prediction import versions
from flo.clients.prediction.gate_rule import refuse_ungated
from flo.published.gate_passed import beside
from flo.published.model_card import PublishedModel


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
