"""Check that patients still have the ids of earlier studies.

Budgets, opt-outs and the split depend on the id. If an export writes ``7`` where it wrote
``00007``, every patient becomes a new one, with a new budget: opted-out patients take part again,
and held-out patients are trained on. One table alone cannot show this. So the ids are compared, as
keyed hashes, with those of earlier studies and of opt-outs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import closing

from flo.clients.home.site_config import Population
from flo.clients.home.site_home import SiteHome
from flo.clients.patients.opt_outs import OptOuts
from flo.clients.patients.spellings import other_spellings
from flo.clients.quality.findings import DataFinding
from flo.clients.sources.cells import as_ids
from flo.privacy.patients.split import keyed_hash

OTHER_IDS, OPT_OUTS, SPELT = "earlier ids gone", "opt outs", "earlier ids spelt otherwise"
_SHARE = 0.5  # minimum share of opt-outs that is still present
_FEWEST_OUT = 3  # minimum number of opt-outs whose absence is significant
_NOTICED = 0.02  # share of earlier patients whose absence is asked about
_BANDS = (5, 10, 20, 50, 100)  # per cent: accepting one band accepts no larger one


def ids_here(home: SiteHome, population: Population) -> dict[str, str]:
    """Return keyed hash -> id of all patients of a source, not only of a study's cohort.

    Raises DataError: the source cannot be read.
    """
    names = {name for cells in population.open().ids() for name in as_ids(cells).to_pylist()}
    key = home.open_patients_key()
    return {keyed_hash(key, name): name for name in names - {None}}


def present_after(before: set[str], here: Collection[str]) -> set[str]:
    """Return whom the next approval looks for: all who are here, and the few who were not missed.

    ``before``: as at the last approval.
    """
    few = len(before - set(here)) < _NOTICED * len(before)
    return {*here, *(before if few else ())}


def check_id_continuity(
    home: SiteHome, population: Population, here: Mapping[str, str]
) -> list[DataFinding]:
    """Return findings about the ids of a population that had earlier studies or opt-outs.

    ``here``: see ``ids_here``. Raises TrustError: the opt-out list is missing or outdated.
    """
    with closing(home.open_ledger()) as ledger:
        earlier = ledger.known_patients(population.name)
        last = ledger.present_before(population.name) or earlier
    out = set(OptOuts.load(home).patients)
    if not earlier and not out:
        return []
    key = home.open_patients_key()
    asked = (
        _opted_out(home, out, earlier, here.keys()),
        _gone((last & earlier) - out, here.keys()),
        _spelt_otherwise(key, (earlier | out) - here.keys(), set(here) - earlier - out, here),
    )
    return [
        DataFinding(population.id_column, rule, level="to accept" if kind else "note", kind=kind)
        for found in asked
        if found is not None
        for rule, kind in [found]
    ]


def _opted_out(
    home: SiteHome, out: set[str], earlier: set[str], here: Collection[str]
) -> tuple[str, str] | None:
    if not out:
        return None
    once = out & earlier
    rule = (
        f"{len(out & set(here))} of {len(out)} patients who opted out are there, and are left out"
    )
    # Patients of no earlier study may belong to another population, which is not searched.
    all_here = len(home.read_config().populations) == 1 and len(out) >= _FEWEST_OUT
    gone = len(once & set(here)) < _SHARE * len(once)
    if not gone and not (all_here and len(out & set(here)) < _SHARE * len(out)):
        return rule, ""
    rule += (
        "; check whether the others were removed from the data, or ids are now spelt differently"
    )
    return rule, OPT_OUTS


def _gone(last: set[str], here: Collection[str]) -> tuple[str, str] | None:
    """Compare with the data of the last approval: who left before was asked about then."""
    gone = len(last - set(here))
    if not gone or gone < _NOTICED * len(last):
        return None
    band = next(band for band in _BANDS if 100 * gone <= band * len(last))
    rule = (
        f"{len(last) - gone} of {len(last)} patients of earlier studies are there; check "
        "that ids are spelt as before: a patient with another id gets a second budget"
    )
    return rule, f"{OTHER_IDS}, up to {band} %"


def _spelt_otherwise(
    key: bytes, missing: set[str], new: set[str], here: Mapping[str, str]
) -> tuple[str, str] | None:
    """Look for earlier patients among other spellings of ids that are new."""
    if not missing:
        return None
    found = sum(
        any(keyed_hash(key, spelt) in missing for spelt in other_spellings(here[one]))
        for one in new
    )
    if not found:
        return None
    rule = (
        f"{found} new ids look like those of earlier patients in another spelling, as 7 for 0007 "
        "or 1000.0 for 1000; correct the export, or the same patients get a second budget"
    )
    return rule, f"{SPELT}, {found}"
