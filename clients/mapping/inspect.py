"""``flo site inspect``: the quality gate's findings with numbers, shown at this site only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flo.clients.home.site_config import Population
from flo.clients.home.site_home import SiteHome
from flo.clients.mapping.mapping_file import mapping_of
from flo.study.document import Study

if TYPE_CHECKING:
    from collections.abc import Callable

    from flo.clients.quality.inspection import Inspection


def inspect(
    home: SiteHome,
    study: Study,
    population: Population,
    progress: Callable[[int], None] = lambda done: None,
) -> Inspection:
    """Inspect a population's data as an approval of the study would; no data are kept or sent.

    Raises:
        DataError: they cannot be read, or columns are missing. UsageError: no mapping for it.
    """
    # Imported here because they load pandas, which is slow.
    from flo.clients.patients.expected import expected_here
    from flo.clients.patients.id_continuity import check_id_continuity, ids_here
    from flo.clients.quality.check import InspectedTable, inspect_table
    from flo.clients.quality.inspection import inspection

    mapping = mapping_of(home, study)
    looked = inspect_table(
        population.open(),
        study.data,
        population.id_column,
        mapping,
        population.ignore,
        progress,
        expected_here(home, study, population),
    )
    here = ids_here(home, population)
    looked = InspectedTable(
        looked.table, [*looked.found, *check_id_continuity(home, population, here)]
    )
    home.record("data-inspected", study.digest, population=population.name)
    return inspection(looked, study.data, mapping)
