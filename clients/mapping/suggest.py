"""Rules that suggest a mapping for a study from the names, texts and units of a source's fields.

A suggestion is a guess: a field with a similar name is suggested, other columns stay open, and the
steward reads every line. The only patient data used are the spellings of a coded field's cells;
only those that spell a code of the study are written.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flo.clients.sources.mapping import MappedColumn, same_unit
from flo.clients.sources.source import SourceField
from flo.clients.sources.unit_conversions import CONVERSIONS
from flo.study.columns import CategoryColumn, ImageColumn, NoteColumn, NumberColumn
from flo.study.schema import Schema

_ALIKE = 0.6  # minimum similarity of a suggested field, 0 to 1
_PREFIX = 3  # minimum letters of a short form, such as chol for cholesterol
_SYNONYMS = {"sex": "gender", "pulse": "heartrate"}
_ANYTHING = {"0", "1", "true", "false", "yes", "no"}  # codes that many fields have
_CANDIDATES = 3  # fields named in the remark if none is similar enough
_LATER = '; the outcome: write when = "after" if it is measured after the record\'s day'
Spellings = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Suggestion:
    """``mapped``: None if no field fits. ``remark``: what the steward should check."""

    mapped: MappedColumn | None
    remark: str = ""


def suggest(
    schema: Schema,
    offers: Sequence[SourceField],
    spellings: Spellings,
    *,
    has_events: bool = False,
) -> dict[str, Suggestion]:
    """Return a suggestion for the label, the outcome's time and each column of the study.

    ``spellings``: field -> its different cells and their meanings, for fields with few of them.
    ``has_events``: a sequence is mapped once for all its steps.
    """
    found = {schema.label: _label(schema.label, schema.label_values, offers, spellings)}
    value = schema.value_column
    if isinstance(value, NumberColumn):
        same = [o for o in offers if _alike(value.name, o, letters=False) == 1]
        found[value.name] = _number(value, same if schema.quantity else offers)
        if schema.quantity and any(":" in offer.field for offer in offers):  # of dated events
            own = found[value.name]
            found[value.name] = Suggestion(own.mapped, own.remark + _LATER)
    for column in schema.of_events if has_events else schema.columns:
        match column:
            case ImageColumn():
                pixels = [offer for offer in offers if offer.field == "pixels"]
                mapped = MappedColumn(field="pixels") if pixels else None
                found[column.name] = Suggestion(mapped, _what(column))
            case CategoryColumn():
                found[column.name] = _column(column.name, column.codes, offers, spellings)
            case NumberColumn():
                found[column.name] = _number(column, offers)
            case NoteColumn():
                found[column.name] = _note(column, offers)
    return found


def _label(
    name: str, values: Sequence[str], offers: Sequence[SourceField], spellings: Spellings
) -> Suggestion:
    """Suggest only a field of the same name: a similar one would train a different model."""
    score = {offer: _alike(name, offer, letters=False) for offer in offers}
    same = [offer for offer in offers if score[offer] == 1]
    if len(same) == 1:
        return _column(name, values, same, spellings)
    like = sorted((o for o in offers if score[o] >= _ALIKE), key=lambda o: -score[o])
    left = _column(name, values, [], spellings, [o for o in offers if o not in like])
    return Suggestion(None, left.remark + _candidates(like, "fields with a similar name"))


def _number(column: NumberColumn, offers: Sequence[SourceField]) -> Suggestion:
    best = _most_alike(column.name, offers)
    if best is None:
        same = [offer for offer in offers if offer.unit and same_unit(offer.unit, column.unit)]
        return Suggestion(None, _what(column) + _candidates(same, "fields with this unit"))
    if not best.unit or same_unit(best.unit, column.unit):
        return Suggestion(MappedColumn(field=best.field), _seen(best, _what(column)))
    ways = [
        c
        for c in CONVERSIONS
        if same_unit(c.given, best.unit)
        and same_unit(c.wanted, column.unit)
        and (not c.what or c.what.split()[0].casefold() in best.text.casefold())
    ]
    if not ways:
        remark = f"{_seen(best, _what(column))}; its unit is {best.unit}: give unit and multiply"
        return Suggestion(None, f"{best.field}? {remark}")
    way = ways[0]
    mapped = MappedColumn(field=best.field, unit=best.unit, multiply=way.factor, add=way.offset)
    return Suggestion(mapped, _seen(best, f"{_what(column)}; check the conversion"))


def _note(column: NoteColumn, offers: Sequence[SourceField]) -> Suggestion:
    """Suggest only a field of a table: no other source has notes."""
    best = _most_alike(column.name, [offer for offer in offers if ":" not in offer.field])
    if best is None:
        return Suggestion(None, "free text; of a table, its column")
    return Suggestion(MappedColumn(field=best.field), _seen(best, "free text"))


def _column(
    name: str,
    codes: Sequence[str],
    offers: Sequence[SourceField],
    spellings: Spellings,
    others: Sequence[SourceField] = (),
) -> Suggestion:
    what = f"codes: {', '.join(codes[:6])}" + (", ..." if len(codes) > 6 else "")
    best = _most_alike(name, offers)
    if best is None:
        fitting = [o for o in (*offers, *others) if _fits(spellings.get(o.field, {}), codes)]
        if len(fitting) != 1 or {_plain(code) for code in codes} <= _ANYTHING:
            of_each = {o.field: _pairs(spellings[o.field], codes) for o in fitting}
            return Suggestion(None, what + _candidates(fitting, "fields with these codes", of_each))
        best = fitting[0]
    cells, remark = spellings.get(best.field, {}), _seen(best, what)
    if not cells:
        remark += "; it has no cells, too many different ones, or cells that may identify people"
        return Suggestion(None, f"{best.field}? {remark}: name the cells that are codes")
    if set(cells) <= set(codes):
        return Suggestion(MappedColumn(field=best.field), remark)
    pairs = _pairs(cells, codes)
    if not pairs:
        how = f'give each cell its code, as in codes = {{ "a cell" = "{codes[0]}" }}'
        none = f"none of its {len(cells)} different cells is one of these codes: {how}"
        return Suggestion(None, f"{best.field}? {remark}; {none}")
    # Report only the number of other cells: a rare cell may reveal who has it.
    if left := len(cells) - len(pairs):
        remark += f"; {left} other cells have no code yet"
    return Suggestion(MappedColumn(field=best.field, codes=pairs), remark)


def _fits(cells: Mapping[str, str], codes: Sequence[str]) -> bool:
    """Return whether a field's cells all spell codes of this codebook, at least two of them."""
    named = {_code(word, codes) for word in cells.values()}
    return len(named) > 1 and None not in named


def _pairs(cells: Mapping[str, str], codes: Sequence[str]) -> dict[str, str]:
    return {cell: c for cell, word in cells.items() if (c := _code(word, codes)) is not None}


def _candidates(
    offers: Sequence[SourceField], why: str, pairs: Mapping[str, Mapping[str, str]] | None = None
) -> str:
    if not offers:
        return ""
    some = []
    for offer in offers[:_CANDIDATES]:
        named = f"{offer.field} ({offer.text})" if offer.text else offer.field
        own = (pairs or {}).get(offer.field, {}).items()
        if codes := ", ".join(f"{cell} = {code}" for cell, code in own if cell != code):
            named += f" codes {codes}"
        some.append(named)
    return f"; {why}: {', '.join(some)}" + (", ..." if len(offers) > _CANDIDATES else "")


def _code(cell: str, codes: Sequence[str]) -> str | None:
    """Return the only code of which a cell is another spelling, if any."""
    same = [code for code in codes if _plain(code) == _plain(cell)]
    short = [code for code in codes if len(_plain(cell)) == 1 and _plain(code)[:1] == _plain(cell)]
    truth = {"true": "1", "yes": "1", "false": "0", "no": "0"}.get(_plain(cell))
    for matching in (same, short, [truth] if truth in codes else []):
        if len(matching) == 1:
            return matching[0]
    return None


def _most_alike(name: str, offers: Sequence[SourceField]) -> SourceField | None:
    scored = [(_alike(name, offer), -place) for place, offer in enumerate(offers)]
    score, place = max(scored, default=(0.0, 0))
    return offers[-place] if score >= _ALIKE else None


def _alike(name: str, offer: SourceField, *, letters: bool = True) -> float:
    """Return 1 for the same name, less for a short form of a word or for ``letters`` in common."""
    tail = re.split(r"[:|]", offer.field)[-1]  # without the kind or system address before it
    best, wished = 0.0, {_plain(name), _SYNONYMS.get(_plain(name))}
    for text in (tail, offer.text):
        if not text:
            continue
        if _plain(text) in wished:
            return 1.0
        words = {_plain(word) for word in re.split(r"[\W_]+|(?<=[a-z])(?=[A-Z])", text)} - {""}
        wanted = [_plain(word) for word in re.split(r"[\W_]+", name) if _plain(word)]
        hits = [any(_short_form(one, other) for other in words) for one in wanted]
        if wanted and all(hits):
            # Of several fields with these words, prefer the one with the fewest others.
            best = max(best, 0.9 - 0.01 * min(len(words), 20))
        if letters:
            best = max(
                best, 0.9 * difflib.SequenceMatcher(None, _plain(text), _plain(name)).ratio()
            )
    return best


def _short_form(one: str, other: str) -> bool:
    if one == other:
        return True
    return min(len(one), len(other)) >= _PREFIX and (one.startswith(other) or other.startswith(one))


def _plain(text: str) -> str:
    return re.sub(r"[\W_]", "", text).casefold()


def _what(column: NumberColumn | ImageColumn) -> str:
    if isinstance(column, ImageColumn):
        return f"{column.height} × {column.width}, {column.minimum:g} to {column.maximum:g}"
    return f"{column.minimum:g} to {column.maximum:g} {column.unit}"


def _seen(offer: SourceField, what: str) -> str:
    return f"{offer.text}: {what}" if offer.text else what
