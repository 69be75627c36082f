"""The policy's rule ``gate_required``: which published models this hospital fetches and uses.

A verdict counts only if this hospital approved the study that it is of, so its steward has read the
terms, and if it is about what this hospital was asked. A gate in which it took part, and whose
result is not shown, counts as a gate that was not passed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import closing

from flo.clients.home.site_home import SiteHome
from flo.clients.records import approval
from flo.errors import PolicyError
from flo.privacy.releases.gate_decision import Verdict
from flo.published.gate_passed import gates_of, has_passed
from flo.published.gate_result import GateResult
from flo.published.model_card import PublishedModel
from flo.study.document import Study


def refuse_ungated(home: SiteHome, model: PublishedModel, results: Iterable[GateResult]) -> None:
    """Raise PolicyError if the site's policy asks for a gate that this model has not passed.

    ``results``: of gates about it. Raises TrustError: one is not the coordinator's, or is of other
    models than this hospital was asked about.
    """
    if not home.read_policy().gate_required:
        return
    found = gates_of(model, results, home.read_coordinator().fingerprints)
    asked, approved = _asked(home), set(approval.approved_digests(home))
    verdicts, said = list[Verdict](), list[str]()
    for study, sums in found:
        if study.digest not in approved:
            said.append(f"{study.name}: this hospital did not approve it")
        elif not asked.get(study.digest, set()) <= {sums.asked}:
            said.append(f"{study.name}: this hospital was asked about other models")
        else:
            verdicts.append(sums.comparison(study).verdict)
            said.append(f"{study.name}: {verdicts[-1]}")
    shown = {study.digest for study, _ in found}
    missing = [one.name for one in _about(home, model, asked) if one.digest not in shown]
    said += [f"{name}: its result is missing" for name in missing]
    if missing or not has_passed(verdicts):
        raise PolicyError(
            f"gate_required = true: {model.study.name}, version {model.study.version}, has not "
            f"passed a release gate ({'; '.join(said) or 'it has none'})",
            hint="ask the coordinator for a gate (flo model gate), and fetch the model again",
        )


def _asked(home: SiteHome) -> dict[str, set[str]]:
    """Return study -> digests of all that this hospital was asked in its gate, retries included."""
    found = dict[str, set[str]]()
    with closing(home.open_ledger()) as ledger:
        for row in ledger.rows():
            if row.private is not None and row.public.get("purpose") == "gate":
                asked = found.setdefault(str(row.private["study"]), set())
                asked.add(str(row.private["model"]))
    return found


def _about(home: SiteHome, model: PublishedModel, asked: Collection[str]) -> list[Study]:
    """Return the gates of this published model in which this hospital took part."""
    studies = [approval.read(home, digest).read_study() for digest in asked]
    return [one for one in studies if one.gate and one.gate.candidate == model.card.digest]
