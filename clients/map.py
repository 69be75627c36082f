"""``flo site map``: a first mapping from the study and the source, written for review."""

from __future__ import annotations

from contextlib import suppress

from flo.clients.home import Population, SiteHome
from flo.clients.mapping import MappedColumn, StudyMapping
from flo.clients.mapping_file import add
from flo.clients.quality.cells import as_text
from flo.clients.sources.source import Offer, Source
from flo.clients.suggest import Suggestion, suggest
from flo.errors import FloError
from flo.study import Study

_MOST_SPELLINGS = 50


def draft(home: SiteHome, study: Study, population: Population) -> dict[str, Suggestion]:
    """Write a section for the study into ``mapping.toml``; returns what was suggested.

    Raises:
        UsageError: it has one already. DataError: the source cannot be read.
    """
    source = population.open()
    settings = source.settings()

    def spellings(offer: Offer) -> dict[str, str]:
        return _spellings(source, offer, study, settings)

    offers = [offer for offer in source.offers() if offer.field != population.id_column]
    found = suggest(study.data, offers, spellings)
    lines = {name: (one.mapped, one.remark) for name, one in found.items()}
    add(home, study, lines, settings)
    home.record("mapping-drafted", study.digest, open=sum(s.mapped is None for s in found.values()))
    return found


def _spellings(
    source: Source, offer: Offer, study: Study, settings: dict[str, object]
) -> dict[str, str]:
    """The different cells of a field, and their meaning; none if they are many or not cells."""
    column = MappedColumn(field=offer.field, when="any")
    mapping = StudyMapping.model_validate({"columns": {"x": column}, **settings})
    cells = dict[str, None]()
    with suppress(FloError, TypeError):
        for batch in source.read(mapping, study.data):
            found = as_text(batch.columns["x"]).unique().drop_null().to_pylist()
            cells |= dict.fromkeys(found)
            if len(cells) > _MOST_SPELLINGS:
                return {}
    return source.words(sorted(cells))
