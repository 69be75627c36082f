"""Statistics as one self-contained page with tables and curves: no script, no network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from flo.privacy.accounting.parts import costs_of_parts
from flo.privacy.report.sheet import Section
from flo.statistics import words
from flo.statistics.associations import association_lines, association_map, column_lines
from flo.statistics.catalogue import CatalogueRead
from flo.statistics.forest import forest
from flo.statistics.reading import PartRead
from flo.statistics.regression import RegressionRead
from flo.statistics.survival import Curve, SurvivalRead
from flo.statistics.table_one import TableRead
from flo.study.document import Study

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 720.0, 320.0, 48.0, 140.0, 14.0, 40.0
_APART = 34.0  # between labels of the axis
Point = tuple[float, float]


@dataclass(frozen=True)
class DrawnCurve:
    """A curve in SVG: its line, its band, its points, where its label stands, and the label."""

    line: str
    band: str
    points: list[Point]
    label_at: Point
    label: str


def render(study: Study, parts: list[PartRead], facts: list[tuple[str, str]]) -> str:
    """Return the page. ``facts``: (label, text) pairs about the result, such as who signed it."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("page.html.j2").render(
        study=study,
        facts=facts,
        tables=[(part, _rows(part)) for part in parts if isinstance(part, TableRead)],
        regressions=[
            (part, forest(part, study.data)) for part in parts if isinstance(part, RegressionRead)
        ],
        curves=[(part, _drawn(part)) for part in parts if isinstance(part, SurvivalRead)],
        catalogues=[
            (part, association_map(part), column_lines(part))
            for part in parts
            if isinstance(part, CatalogueRead)
        ],
        words=words,
        test=test_in_words,
        wald=wald_in_words,
        costs=costs_of_parts(study),
        ticks=[(0.25 * k, _y(0.25 * k)) for k in range(5)],
        size=(_WIDTH, _HEIGHT, _LEFT, _WIDTH - _RIGHT, _HEIGHT - _BOTTOM),
    )


def sections(parts: list[PartRead]) -> list[Section]:
    """Return the same in words for a terminal."""
    found = []
    for part in parts:
        if isinstance(part, TableRead):
            lines = [
                (f"{label}, {group}", text)
                for label, texts in _rows(part)
                for group, text in zip([g.name for g in part.groups], texts, strict=True)
            ]
        elif isinstance(part, SurvivalRead):
            lines = _survival_lines(part)
        elif isinstance(part, RegressionRead):
            lines = _regression_lines(part)
        else:
            lines = [*column_lines(part), *association_lines(part)]
        found.append(Section(part.name, tuple(lines)))
    return found


def _rows(part: TableRead) -> list[tuple[str, list[str]]]:
    """Return a table's rows: label, and words for each group."""
    found = [("patients", [words.count(group.patients) for group in part.groups])]
    for place, column in enumerate(part.groups[0].columns):
        by_group = [words.lines_of(group.columns[place]) for group in part.groups]
        for line, (label, _) in enumerate(by_group[0]):
            texts = [lines[line][1] for lines in by_group]
            found.append((f"{column.name}: {label}", texts))
    return found


def _survival_lines(part: SurvivalRead) -> list[tuple[str, str]]:
    lines = []
    for curve in part.curves:
        for edge, found in zip(part.edges, curve.survival, strict=True):
            lines.append((f"{curve.group}, after {edge:g}", words.share(found)))
        lines.append((f"{curve.group}, median", words.number(curve.median)))
    if part.log_rank:
        lines.append(("log-rank test", test_in_words(part)))
    return lines


def _regression_lines(part: RegressionRead) -> list[tuple[str, str]]:
    lines = [("patients with all values", words.count(part.patients))]
    if part.unknown:
        return [*lines, ("coefficients", words.why_unknown(part))]
    for one in part.coefficients:
        ratio = f"; {words.RATIOS[part.family]} {words.number(one.ratio)}" if one.ratio else ""
        lines.append((one.name, f"{words.number(one.value)}{ratio}; {words.p_value(one.p)}"))
    lines.append(("all but the intercept", wald_in_words(part)))
    return lines


def wald_in_words(part: RegressionRead) -> str:
    """Return the test that no predictor matters."""
    if part.wald is None:
        return words.TOO_FEW
    statistic, freedom, p = part.wald
    return f"Wald χ² = {statistic:.2f}, {freedom} degrees of freedom, {words.p_value(p)}"


def test_in_words(part: SurvivalRead) -> str:
    """Return the log-rank test of a part that has one."""
    test = part.log_rank
    if test is None:
        return words.TOO_FEW
    p = f"p = {test.p:.3f}" if test.p >= 0.001 else "p < 0.001"
    found = f"χ² = {test.statistic:.2f}, {test.freedom} degrees of freedom, {p}"
    if test.compared == len(part.edges):
        return found
    return f"{found}, in {test.compared} of {len(part.edges)} intervals (in others many left)"


def _y(value: float) -> float:
    return round(_HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * value, 1)


def _drawn(part: SurvivalRead) -> tuple[list[DrawnCurve], list[tuple[float, str]]]:
    begin, whole, right = part.start, part.edges[-1] - part.start, _WIDTH - _RIGHT

    def x(time: float) -> float:
        return round(_LEFT + (right - _LEFT) * (time - begin) / whole, 1)

    xs = [x(edge) for edge in part.edges]
    curves = [_curve(curve, x(begin), xs) for curve in part.curves]
    curves.sort(key=lambda drawn: drawn.label_at[1])
    placed = list[DrawnCurve]()
    for drawn in curves:  # labels do not cover each other
        lowest = placed[-1].label_at[1] + 15 if placed else 0.0
        at = (drawn.label_at[0], max(drawn.label_at[1], lowest))
        placed.append(replace(drawn, label_at=at))
    ticks = [(x(begin), f"{begin:g}")]
    for edge in part.edges:
        if x(edge) - ticks[-1][0] >= _APART:
            ticks.append((x(edge), f"{edge:g}"))
    return placed, ticks


def _curve(curve: Curve, zero: float, xs: list[float]) -> DrawnCurve:
    """Lay out a curve: known at the edges, and straight between them, as a life table is."""
    shown = [(x, one) for x, one in zip(xs, curve.survival, strict=True) if one.readable]
    start = (zero, _y(1.0))
    line = [start, *((x, _y(one.value)) for x, one in shown)]
    upper = [start, *((x, _y(one.high)) for x, one in shown)]
    lower = [start, *((x, _y(one.low)) for x, one in shown)]
    band = [*upper, *reversed(lower)]
    return DrawnCurve(_points(line), _points(band), line, line[-1], curve.group)


def _points(points: list[Point]) -> str:
    return " ".join(f"{x},{y}" for x, y in points)
