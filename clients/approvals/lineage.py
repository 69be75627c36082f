"""What a study says of studies before it, compared with what this hospital approved.

The coordinator states the lineage, and a hospital has no other hospital's documents. Of the studies
that it approved itself it has the text, so nothing else can be said about these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from flo.clients.home.site_home import SiteHome
from flo.clients.records.approval import readable
from flo.errors import TrustError
from flo.privacy.accounting.plan import Plan
from flo.study import usual
from flo.study.document import Study


def approved_before(home: SiteHome, study: Study) -> dict[str, Study]:
    """Return those studies of a study's lineage that were approved here, by digest."""
    named = {ancestor.study for ancestor in study.lineage}
    return {
        digest: kept.read_study()
        for digest, kept in (readable(home) if named else ())
        if digest in named and kept is not None
    }


def refuse_hidden_periods(home: SiteHome, study: Study) -> None:
    """Raise TrustError if a monitor leaves out a period of its model that was approved here.

    Its evidence would be lost to whoever reads the series. (Nobody is counted twice: the ledger
    looks to that.)
    """
    if study.monitor is None:
        return
    for digest, kept in readable(home):
        before = kept.read_study() if kept is not None else None
        if before is None or before.monitor is None or digest == study.digest:
            continue
        if before.monitor.model == study.monitor.model and not (
            digest in study.monitor.earlier or study.digest in before.monitor.earlier
        ):
            raise TrustError(
                f"the study leaves out {before.name}, version {before.version}, which was approved "
                "here and counts patients of the same model",
                hint=f"ask the coordinator for a new version, whose `earlier` has {digest}",
            )


def refuse_false_lineage(study: Study, approved: Mapping[str, Study]) -> None:
    """Raise TrustError if a study states no lineage, or contradicts what was approved here.

    ``approved``: studies that this hospital approved, by digest.
    """
    if study.continues is None:
        return
    ask = "ask the coordinator for a new version, signed by its own FLO"
    if not study.lineage:
        raise TrustError(
            "the study does not state what the models that it continues have learnt from", hint=ask
        )
    for ancestor in study.lineage:
        kept = approved.get(ancestor.study)
        if kept is None:
            continue
        same = (
            (ancestor.name, ancestor.version) == (kept.name, kept.version)
            and ancestor.delta == kept.mechanism.delta
            and math.isclose(ancestor.epsilon, Plan.of(kept).epsilon, rel_tol=1e-6)
            and math.isclose(ancestor.worth, usual.worth(kept), rel_tol=1e-6)
        )
        if not same:
            raise TrustError(
                f"the study calls {kept.name}, version {kept.version}, which was approved here, "
                f"{ancestor.title}: another name, version, ε, δ or worth than it has",
                hint=ask,
            )
        if not all(earlier in study.lineage for earlier in kept.lineage):
            raise TrustError(
                f"the study leaves out what {kept.name}, version {kept.version}, learnt from",
                hint=ask,
            )
