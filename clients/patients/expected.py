"""How many of a population's patients a study plans to use here, and who is out of budget."""

from __future__ import annotations

from contextlib import closing

from flo.clients.home.site_config import Population
from flo.clients.home.site_home import SiteHome
from flo.clients.patients.later_patients import later_patients
from flo.clients.quality.sizes import Expected
from flo.errors import BudgetError, UsageError
from flo.privacy.ledger.generations import UNRECORDED
from flo.privacy.patients.split import is_held_out, keyed_hash
from flo.study.document import Study


def expected_here(home: SiteHome, study: Study, population: Population) -> Expected:
    """Return what the number of patients in the data is compared with.

    Patients who were frozen before and whose budget has no room for the study do not count.
    """
    planned = study.hospital(home.read_config().hospital).planned
    if not study.by_generation:
        return Expected(planned)
    with closing(home.open_ledger()) as ledger:
        try:
            known = ledger.check_reservation(study, population.name)
        except (BudgetError, UsageError):  # the approval refuses the study or the population
            return Expected(planned)
        recovered = ledger.recovery() is not None
    later = later_patients(home, population)
    anew = later.patients if later else frozenset[str]()
    patients_key, split_key = home.open_patients_key(), home.open_split_key()

    def has_no_budget(name: str) -> bool:
        patient = keyed_hash(patients_key, name)
        unknown = UNRECORDED if recovered and patient not in anew else None
        number = known.generations.get(patient, unknown)
        held_out = is_held_out(split_key, name, population.hold_out)
        side = "evaluation" if held_out else "training"
        return number is not None and number not in known.charged[side]

    return Expected(planned, has_no_budget)
