"""Bar chart of the rows of ``flo bench``: one bar per row, logarithmic ratio to the reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from itertools import groupby

from flo.bench import BenchRow

_WIDTH, _LABEL, _VALUE, _LINE, _HEAD = 1000, 310, 270, 18, 30
_STYLE = """
svg { font: 12px system-ui, sans-serif; background: #fff } text { fill: #333 }
.group { font-weight: 600 } .axis { stroke: #999 } .grid { stroke: #ddd }
.less { fill: #1a7f5a } .more { fill: #b35900 }
"""


def svg(rows: Sequence[BenchRow]) -> str:
    """Return the chart as SVG. Bars to the left: FLO takes less than the reference; right: more."""
    ratios = [float(row["ratio"]) for row in rows]
    reach = max([1, *(math.ceil(abs(math.log10(ratio))) for ratio in ratios)])
    scale = (_WIDTH - _LABEL - _VALUE) / (2 * reach)
    middle = _LABEL + reach * scale
    lines, y = list[str](), _HEAD
    for group, of_group in groupby(rows, key=lambda row: str(row["group"])):
        y += _LINE
        lines.append(_text(0, y, group, "group"))
        for row in of_group:
            y += _LINE
            ratio = float(row["ratio"])
            end = middle + scale * math.log10(ratio)
            left, kind = min(middle, end), "less" if ratio < 1 else "more"
            lines.append(_text(10, y, str(row["name"])))
            lines.append(
                f'<rect class="{kind}" x="{left:.1f}" y="{y - 11}" '
                f'width="{max(abs(end - middle), 1):.1f}" height="12"/>'
            )
            shown = f"{ratio:.2g}" if ratio < 10 else f"{ratio:.0f}"
            lines.append(_text(_WIDTH - _VALUE + 6, y, f"{shown} × {row['how']}"))
    bottom = y + _LINE
    ticks = [
        f'<line class="{"axis" if power == 0 else "grid"}" x1="{middle + scale * power:.1f}" '
        f'x2="{middle + scale * power:.1f}" y1="{_HEAD}" y2="{bottom}"/>'
        + _text(middle + scale * power, _HEAD - 8, f"{10.0**power:g}", "", "middle")
        for power in range(-reach, reach + 1)
    ]
    title = "FLO as a multiple of each reference"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {bottom + 8}" role="img" '
        f'aria-label="{title}"><style>{_STYLE}</style>'
        + _text(0, _HEAD - 8, title)
        + "".join([*ticks, *lines])
        + "</svg>\n"
    )


def _text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y}" text-anchor="{anchor}">{escape(words)}</text>'
