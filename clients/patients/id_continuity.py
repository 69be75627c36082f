"""Check that patients still have the ids of earlier studies.

Budgets, opt-outs and the split depend on the id. If an export writes ``7`` where it wrote
``00007``, every patient becomes a new one: opted-out patients take part again, and held-out
patients are trained on. One table alone cannot show this. So the ids are compared, as keyed hashes,
with those of earlier studies and of opt-outs.
"""

from __future__ import annotations

from flo.clients.home.site_config import Population
from flo.clients.home.site_home import SiteHome
from flo.clients.patients.opt_outs import OptOuts
from flo.clients.quality.findings import DataFinding
from flo.clients.records.approval import readable
from flo.clients.records.members import Members
from flo.clients.sources.cells import as_ids
from flo.privacy.patients.split import keyed_hash

OTHER_IDS, OPT_OUTS = "other ids", "opt outs"
_FEWEST, _FEWEST_OUT = 10, 3  # minimum number of patients whose absence is significant
_SHARE = 0.5  # minimum share of them that is still present


def check_id_continuity(home: SiteHome, population: Population) -> list[DataFinding]:
    """Return findings about the ids of a population that had earlier studies or opt-outs.

    All ids of its source are compared, not only those of a study's cohort.

    Raises:
        DataError: the source cannot be read. TrustError: the opt-out list is missing or outdated.
    """
    earlier, out = _earlier(home, population), set(OptOuts.load(home).patients)
    if not earlier and not out:
        return []
    names = {name for cells in population.open().ids() for name in as_ids(cells).to_pylist()}
    key = home.open_patients_key()
    here = {keyed_hash(key, name) for name in names - {None}}
    found = []
    if out:
        once = out & earlier
        # Patients of no earlier study may belong to another population, which is not searched.
        all_here = len(home.read_config().populations) == 1 and len(out) >= _FEWEST_OUT
        gone = len(once & here) < _SHARE * len(once) or (
            all_here and len(out & here) < _SHARE * len(out)
        )
        rule = f"{len(out & here)} of {len(out)} patients who opted out are there, and are left out"
        if gone:
            rule += "; check whether the others were removed from the data, or ids are now spelt "
            rule += "differently"
            found.append(DataFinding(population.id_column, rule, level="to accept", kind=OPT_OUTS))
        else:
            found.append(DataFinding(population.id_column, rule, level="note"))
    stayed = earlier - out
    if len(stayed) >= _FEWEST and len(stayed & here) < _SHARE * len(stayed):
        rule = (
            f"{len(stayed & here)} of {len(stayed)} patients of earlier studies are there; check "
            "that ids are spelt as before, because opt-outs and budgets depend on it"
        )
        found.append(DataFinding(population.id_column, rule, level="to accept", kind=OTHER_IDS))
    return found


def _earlier(home: SiteHome, population: Population) -> set[str]:
    """Return keyed hashes of this population's patients in earlier studies, opted out or not."""
    found = set[str]()
    for study, approved in readable(home):
        if approved is not None and approved.population == population.name:
            members = Members.load(home, study, approved.snapshot)
            if members is not None:
                found |= {*members.training, *members.held_out, *(o.patient for o in members.left)}
    return found
