"""One record at once is encoded, or refused, exactly as a table of it would be."""

from __future__ import annotations

import gc
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from flo.clients.quality import rules
from flo.clients.quality.inputs import Inputs
from flo.clients.quality.table import read
from flo.clients.sources.mapping import MappedColumn, StudyMapping, record_fields
from flo.clients.sources.source import Batch
from flo.scoring.record import RecordEncoder, _as_text
from flo.study.cell_rules import IS_MISSING
from flo.study.schema import Schema

IMAGE = {"kind": "image", "name": "scan", "height": 8, "width": 8, "minimum": 0, "maximum": 255}
COLUMNS: list[dict[str, Any]] = [
    {"kind": "number", "name": "age", "unit": "years", "minimum": 0, "maximum": 100},
    {"kind": "number", "name": "crea", "unit": "mg/dl", "minimum": 0.1, "maximum": 20}
    | {"missing": "indicator", "missing_value": 1.0, "hinges": [2, 5.5]},
    {"kind": "number", "name": "big", "unit": "u", "minimum": -1e12, "maximum": 1e15}
    | {"missing": "indicator", "missing_value": 0, "hinges": [0]},
    {"kind": "category", "name": "sex", "codes": ["Female", "Male"]},
    {"kind": "category", "name": "cp", "codes": ["1", "2", "3", "10"], "missing": "indicator"},
    {"kind": "category", "name": "flag", "codes": ["True", "False"], "missing": "indicator"},
]
SCHEMA = Schema.model_validate({"record": "visit", "label": "ill", "columns": COLUMNS})
WAVELETS = Schema.model_validate(
    {"record": "visit", "label": "ill", "columns": [COLUMNS[0], IMAGE | {"scattering": 1}]}
)
MAPPED = {
    "age": MappedColumn(field="AGE", missing=("-1", "n.k.", "1e+300")),
    "crea": MappedColumn(field="KREA", unit="umol/l", multiply=0.0113, add=0.05, missing=("999",)),
    "big": MappedColumn(field="BIG", missing=("True",)),
    "sex": MappedColumn(field="SEX", codes={"F": "Female", "M": "Male", "": "Male", "0": "Female"}),
    "cp": MappedColumn(field="CP", codes={"1": "1", "2.5": "10", "none": "3", "true": "2"}),
    "flag": MappedColumn(field="FLAG", missing=("?", "2")),
}
WORDS = [
    *("", " ", "NA", "nan", "null", " None ", "<na>", "F", "M", "Female", " Male ", "female", "f"),
    *("1", "1.0", "01", "2", "2.5", "10", "10.00", "3.0", "none", "true", "True", "False", "?"),
    *("50", " 50 ", "+50", "-1", "-1.0", "1e1", "1E+2", ".5", "5.", "1e999", "-1e-400", "999"),
    *("inf", "-Infinity", "nan(1)", "-nan", "0x10", "1_0", "١", "½", "<5", "> 3", "≤2", "? 4"),
    *("n.k.", "1e+300", "1,5", "--1", "5 mg", "K", "\u00a05", "5\u2003", "\x1f7", "İ"),
]
NUMBERS = [
    *(0, 1, 2, 3, 10, 50, 100, 101, -1, 999, 2**53, 2**53 + 1, -(2**62), 1.0, 2.5, -1.0, 0.1),
    *(1e300, -1e300, 1e-300, 99.99999999999999, 100.00000000000001, 0.3 - 0.2, 1e15, 1e16),
    *(float("nan"), float("inf"), float("-inf"), 8849.557522123895, 4.424778761061947, -0.0),
]


@dataclass
class Rows:
    """A source whose cells have the types that JSON gave them, one type a column."""

    columns: dict[str, pa.Array]
    name = "records"
    is_table = True

    def read(self, mapping: StudyMapping, schema: Schema) -> Iterator[Batch]:
        count = len(next(iter(self.columns.values())))
        yield Batch(pa.nulls(count, pa.string()), self.columns)


def by_table(
    schema: Schema, mapping: Mapping[str, MappedColumn], records: list[dict[str, Any]]
) -> list[tuple[bytes | None, frozenset[tuple[str, str]]]]:
    """Inputs of each of at most five records, or the rules that it breaks."""
    assert len(records) <= 5, "findings name five rows"
    own = {c.name: mapping.get(c.name, MappedColumn(field=c.name)) for c in schema.columns}
    cells = {
        name: pa.array([one[mapped.one_field(name)] for one in records])
        for name, mapped in own.items()
    }
    table = read(Rows(cells), schema, StudyMapping(columns=own))  # type: ignore[arg-type]
    found = rules.broken(table, schema, "", labelled=False)
    broken = [
        frozenset((one.column, one.rule) for one in found if row + 1 in one.rows)
        for row in range(len(records))
    ]
    with np.errstate(invalid="ignore"):
        inputs = Inputs.of(table, schema).encoded()
    return [(None if wrong else inputs[row].tobytes(), wrong) for row, wrong in enumerate(broken)]


def encoder_of(schema: Schema, mapping: Mapping[str, MappedColumn]) -> RecordEncoder:
    return RecordEncoder(schema.columns, record_fields(mapping))


def at_once(
    encoder: RecordEncoder, record: dict[str, Any]
) -> tuple[bytes | None, frozenset[tuple[str, str]]]:
    found = encoder.encode(record)
    inputs = None if found.inputs is None else np.asarray(found.inputs).tobytes()
    return inputs, frozenset(found.broken)


def cells_of(dice: random.Random, count: int) -> list[Any]:
    """Cells of one type: text, whole numbers, decimals, truth values, or nothing."""
    kind = dice.randrange(8)
    if kind < 3:
        made: list[Any] = [dice.choice(WORDS) for _ in range(count)]
    elif kind == 3:
        made = [dice.choice([one for one in NUMBERS if isinstance(one, int)]) for _ in range(count)]
    elif kind < 6:
        made = [
            float(dice.choice(NUMBERS)) if dice.random() < 0.5 else dice.uniform(-5, 120)
            for _ in range(count)
        ]
    elif kind == 6:
        made = [dice.random() < 0.5 for _ in range(count)]
    else:
        made = [str(dice.uniform(0, 100)) for _ in range(count)]
    return [None if dice.random() < 0.1 else cell for cell in made]


def compared(tables: int, seed: int) -> int:
    """How many random records were compared and are right; the rest are refused alike."""
    dice, right = random.Random(seed), 0
    for number in range(tables):
        mapping = MAPPED if number % 2 else {}
        encoder = encoder_of(SCHEMA, mapping)
        fields = {field: cells_of(dice, 5) for field in encoder.fields}
        if number % 3 == 0:  # so that many records fit
            fields |= {encoder.fields[0]: [float(dice.randrange(100)) for _ in range(5)]}
            fields |= {encoder.fields[3]: [dice.choice(("F", "M") if mapping else ("Male",))] * 5}
            fields |= {encoder.fields[1]: [dice.uniform(1, 15) for _ in range(5)]}
            fields |= {encoder.fields[4]: [dice.choice(("1", "2.5" if mapping else "2"))] * 5}
        records = [{field: own[row] for field, own in fields.items()} for row in range(5)]
        for record, expected in zip(records, by_table(SCHEMA, mapping, records), strict=True):
            found = at_once(encoder, record)
            assert found == expected, record
            right += found[0] is not None
    return right


@pytest.mark.slow
def test_a_record_is_encoded_or_refused_as_in_a_table() -> None:
    assert compared(tables=150, seed=1) > 20


def test_a_decimal_is_spelt_as_arrow_spells_it() -> None:
    """A codebook may name 1.5, and a file's reader is Arrow."""
    dice = random.Random(4)
    made = [dice.uniform(-1, 1) * 10.0 ** dice.randint(-20, 25) for _ in range(3000)]
    made += [round(one, dice.randint(0, 6)) for one in made]
    made += [0.5, 1e-6, 1e-7, 1e10, 2.0**53, 5e-324]
    decimals = [one for one in made if one != math.floor(one) or abs(one) >= 2.0**53]
    assert [_as_text(one) for one in decimals] == pa.array(decimals).cast(pa.string()).to_pylist()


@pytest.mark.slow  # 800 tables: 8 s
def test_four_thousand_records_are_encoded_or_refused_as_in_a_table() -> None:
    assert compared(tables=800, seed=2) > 80


def test_an_image_is_encoded_or_refused_as_in_a_table() -> None:
    dice, encoder = random.Random(3), encoder_of(WAVELETS, {})
    for _ in range(40):
        pixels = [dice.uniform(0, 255) for _ in range(64)]
        if dice.random() < 0.3:
            pixels[dice.randrange(64)] = dice.choice([math.nan, math.inf, -0.1, 255.5])
        record = {"age": dice.choice([50.0, 101.0]), "scan": pixels}
        (expected,) = by_table(WAVELETS, {}, [record])
        assert at_once(encoder, record) == expected
    for wrong in (None, "scan", 5, [1.0] * 63, [[1.0]] * 64, ["1"] * 64, [True] * 64, {"a": 1}):
        found = encoder.encode({"age": 50, "scan": wrong})
        assert found.inputs is None
        assert [name for name, _ in found.broken] == ["scan"]


def test_what_a_record_lacks_is_named_and_no_value_is_said() -> None:
    encoder = encoder_of(SCHEMA, MAPPED)
    found = encoder.encode({"AGE": "secret 123", "KREA": {"value": "secret"}, "SEX": ["secret"]})
    assert found.inputs is None
    assert {name for name, rule in found.broken if rule == IS_MISSING} == {"big", "cp", "flag"}
    assert {name for name, _ in found.broken} == {"age", "crea", "sex", "big", "cp", "flag"}
    assert "secret" not in str(found.broken)
    assert encoder.encode({}).broken == tuple((c["name"], IS_MISSING) for c in COLUMNS)
    for odd in (10**4400, -(10**4400), Decimal("1.5"), [1], {"a": 1}, b"1", "1" * 200_000 + "x"):
        found = encoder.encode(dict.fromkeys(encoder.fields, odd))
        assert found.inputs is None
        assert {name for name, _ in found.broken} == {column["name"] for column in COLUMNS}
    huge = encoder.encode(
        {"AGE": 10**400, "KREA": 88, "BIG": 0, "SEX": "F", "CP": "1", "FLAG": None}
    )
    assert huge.broken == (("age", "must be finite"),)


@pytest.mark.parametrize("cell", [[1], {"a": 1}, [], None, True, "\0", "n.k."])
def test_what_is_no_number_is_named_as_in_a_table_where_words_mean_missing(cell: Any) -> None:
    schema = Schema.model_validate({"record": "visit", "label": "ill", "columns": COLUMNS[:1]})
    mapping = {"age": MAPPED["age"]}
    if cell != []:  # Arrow gives an empty list no type
        (expected,) = by_table(schema, mapping, [{"AGE": cell}])
        assert at_once(encoder_of(schema, mapping), {"AGE": cell}) == expected


@pytest.mark.slow
def test_no_cell_of_a_patient_is_kept() -> None:
    encoder = encoder_of(SCHEMA, MAPPED)
    for number in range(50):
        encoder.encode(dict.fromkeys(encoder.fields, f"Jane Doe {number}"))
    encoder.encode({"FLAG": "x" * 10_000})
    gc.collect()
    kept = {
        text
        for one in gc.get_objects()
        if type(one) is dict and len(one) < 5000  # nothing is asked of other objects
        for text in list(one)
        if isinstance(text, str) and (text.startswith("Jane Doe") or text.startswith("xxxx"))
    }
    assert kept == set()
