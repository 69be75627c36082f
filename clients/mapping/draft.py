"""``flo site map``: drafts a mapping from the study and the source, for the steward's review."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import date

import pyarrow as pa

from flo.clients.home.site_config import Population
from flo.clients.home.site_home import SiteHome
from flo.clients.mapping.mapping_file import add
from flo.clients.mapping.suggest import Suggestion, suggest
from flo.clients.quality.header import refuse_cells
from flo.clients.quality.identifiers import kind_of_identifier
from flo.clients.sources.cells import as_text
from flo.clients.sources.mapping import MappedColumn, StudyMapping
from flo.clients.sources.source import DataSource, SourceField
from flo.errors import DataError
from flo.study.columns import CategoryColumn
from flo.study.document import Study

_MOST_SPELLINGS = 50  # a field with more different cells is not coded
_MOST_FIELDS = 200  # fields whose cells are inspected
_LONGEST, _LONGEST_FIELD = 100, 500  # characters
_CONCEPT = r"\d{1,10}"  # of an OMOP database; a site's own concepts begin at 2,000,000,000


def draft(home: SiteHome, study: Study, population: Population) -> dict[str, Suggestion]:
    """Write a section for the study into ``mapping.toml``; return the suggestions.

    Raises:
        UsageError: the study already has one. DataError: the source cannot be read.
    """
    source = population.open()
    settings = source.settings()
    offers = [
        offer
        for offer in fields_of(population)
        if offer.field != population.id_column and 0 < len(offer.field) <= _LONGEST_FIELD
    ]
    looked = {name: value for name, value in settings.items() if value is not None}
    if "as_of" in settings.keys() - looked.keys():
        looked["as_of"] = date.max  # any date serves: only the cells' spellings are read
    spelt = _spellings(source, offers, study, looked)
    found = suggest(study.data, offers, spelt, has_events=source.has_events)
    lines = {name: (one.mapped, one.remark) for name, one in found.items()}
    add(home, study, lines, settings)
    home.record("mapping-drafted", study.digest, open=sum(s.mapped is None for s in found.values()))
    return found


def fields_of(population: Population) -> list[SourceField]:
    """Return all fields of the population's source.

    Raises:
        DataError: the source cannot be read, lacks the id column, or has a patient's cells in place
        of a header.
    """
    source = population.open()
    offers = source.fields()
    names = [offer.field for offer in offers]
    if source.is_table and population.id_column not in names:
        refuse_cells(names, population.id_column)
        raise DataError(
            f"{source.name} has no column {population.id_column!r}, which site.toml names as the "
            "patients' id",
            hint="check that its first line is a header, and that it has this column",
        )
    return offers


def _spellings(
    source: DataSource, offers: list[SourceField], study: Study, settings: dict[str, object]
) -> dict[str, dict[str, str]]:
    """Return field -> its different cells and meanings, for the first fields that may be coded."""
    looked = [offer for offer in offers if not (offer.unit or offer.of_events)]
    coded = [offer.field for offer in looked if offer.field != "pixels"]
    named = {f"f{number}": field for number, field in enumerate(coded[:_MOST_FIELDS])}
    columns = {name: MappedColumn(field=field, when="any") for name, field in named.items()}
    mapping = StudyMapping.model_validate({"columns": columns, **settings})
    cells = {name: set[str]() for name in named}
    for batch in source.read(mapping, study.data):
        for name in list(cells):
            with suppress(TypeError):  # lists and other nested values are not codes
                cells[name] |= set(as_text(batch.columns[name]).unique().drop_null().to_pylist())
            if len(cells[name]) > _MOST_SPELLINGS or any(len(c) > _LONGEST for c in cells[name]):
                del cells[name]
    codes = {c for one in study.data.columns if isinstance(one, CategoryColumn) for c in one.codes}
    return {
        named[name]: words
        for name, found in cells.items()
        if found and (words := _words(source, found, {code.casefold() for code in codes}))
    }


def _words(source: DataSource, cells: set[str], codes: set[str]) -> dict[str, str]:
    """Return cells and their meanings.

    Cells that spell no code of the study are left out if they look like identifiers, which a draft
    must not hold. Numbers that look like record numbers are kept, as concepts, if the source knows
    the meaning of each.
    """
    known = {cell for cell in cells if cell.casefold() in codes}
    strange = sorted(cells - known)
    telling = kind_of_identifier(pa.array(strange, pa.string())) is not None
    if telling and not all(re.fullmatch(_CONCEPT, cell) for cell in strange):
        return source.words(sorted(known))
    words = source.words(sorted(cells))
    if telling and any(words[cell] == cell for cell in strange):
        return {cell: words[cell] for cell in known}
    return words
