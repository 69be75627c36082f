"""The drawings of the documentation, as SVG beside its pages: ``python -m tools.draw``.

Curves are computed from the definitions or figures that the pages state; the rest is boxes and
arrows.
"""

from __future__ import annotations

import math
import re
from html import escape
from pathlib import Path

HERE = Path(__file__).parents[1] / "docs" / "drawings"
YEARLY = Path(__file__).parents[1] / "examples" / "yearly"
INK, SOFT, BLUE = "#1d2733", "#6b7785", "#2563a8"
RED, GREEN, PAPER = "#b3443c", "#2f7d4f", "#ffffff"


_YEAR = re.compile(r"^\| (\d) \|" + r" \**(\.\d+)\** ± \.\d+ \|" * 4 + "$", re.MULTILINE)


class Drawing:
    """Shapes on a white background, sizes in pixels; later shapes cover earlier ones."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self._size, self._title = (width, height), title
        self._shapes: list[str] = []

    def box(
        self, x: float, y: float, width: float, height: float, *lines: str, color: str = INK
    ) -> None:
        """Add a rounded box with centred lines, the first one bold."""
        self._shapes.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="{PAPER}" '
            f'stroke="{color}" stroke-width="1.5"/>'
        )
        top = y + height / 2 - 9 * (len(lines) - 1) + 5
        for number, line in enumerate(lines):
            self.text(x + width / 2, top + 18 * number, line, bold=number == 0, color=color)

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        anchor: str = "middle",
        bold: bool = False,
        color: str = INK,
        size: int = 14,
    ) -> None:
        """Add a line of text; ``y`` is its baseline."""
        weight = ' font-weight="600"' if bold else ""
        self._shapes.append(
            f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{color}" '
            f'font-size="{size}"{weight}>{escape(words)}</text>'
        )

    def arrow(
        self,
        x1: float,
        y1: float,
        x2: float,
        y2: float,
        words: str = "",
        *,
        color: str = INK,
        dashed: bool = False,
        above: float = 7,
    ) -> None:
        """Add a straight arrow with text above its middle."""
        angle, head = math.atan2(y2 - y1, x2 - x1), 8
        wings = " ".join(
            f"{x2 - head * math.cos(angle + turn):.1f},{y2 - head * math.sin(angle + turn):.1f}"
            for turn in (-0.45, 0.45)
        )
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self._shapes.append(
            f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{color}" '
            f'stroke-width="1.5"{dash}/>'
            f'<polygon points="{x2},{y2} {wings}" fill="{color}"/>'
        )
        if words:
            self.text((x1 + x2) / 2, (y1 + y2) / 2 - above, words, color=color, size=13)

    def line(self, points: list[tuple[float, float]], color: str, width: float = 2) -> None:
        """Add a line through these points."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._shapes.append(
            f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="{width}"/>'
        )

    def bar(self, x: float, y: float, width: float, height: float, color: str) -> None:
        """Add a filled bar: an amount of noise, or a legend's key."""
        self._shapes.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="{color}" '
            f'opacity="0.85"/>'
        )

    def blank(self, x: float, y: float, width: float, height: float) -> None:
        """Cover an area with background colour, for text that crosses lines."""
        self._shapes.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="{PAPER}"/>'
        )

    def svg(self) -> str:
        """Return the drawing as the text of an SVG file."""
        width, height = self._size
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" font-family="system-ui, sans-serif" role="img">'
            f"<title>{escape(self._title)}</title>"
            f'<rect width="{width}" height="{height}" rx="8" fill="{PAPER}"/>'
            + "".join(self._shapes)
            + "</svg>\n"
        )


def epsilon() -> Drawing:
    """Draw belief after all releases against belief before: odds change by at most e^ε."""
    drawn = Drawing(560, 400, "Belief before and after, for several ε")
    left, bottom, side = 80.0, 340.0, 300.0

    def at(before: float, after: float) -> tuple[float, float]:
        return left + side * before, bottom - side * after

    drawn.line([at(0, 0), at(1, 0)], SOFT, 1)
    drawn.line([at(0, 0), at(0, 1)], SOFT, 1)
    for tick in (0.0, 0.5, 1.0):
        x, y = at(tick, tick)
        drawn.text(x, bottom + 20, f"{tick:.0%}", color=SOFT, size=13)
        drawn.text(left - 10, y + 5, f"{tick:.0%}", anchor="end", color=SOFT, size=13)
    for number, (value, color) in enumerate(
        [(8, RED), (3, "#c98a2b"), (0.9, BLUE), (0.3, GREEN), (0, SOFT)]
    ):
        steps = [step / 200 for step in range(201)]
        drawn.line(
            [at(p, p * math.exp(value) / (1 - p + p * math.exp(value))) for p in steps], color
        )
        note = " (guessing)" if value == 0 else ""
        drawn.bar(405, 68 + 26 * number, 22, 4, color)
        drawn.text(435, 75 + 26 * number, f"ε = {value:g}{note}", anchor="start", color=color)
    drawn.text(left + side / 2, bottom + 42, "believed before: “she took part”", size=13)
    drawn.text(
        left, 28, "believed after seeing all that was released, at most", anchor="start", size=13
    )
    return drawn


def trust_models() -> Drawing:
    """Draw where the noise is added, and what it protects."""
    drawn = Drawing(720, 330, "Local and distributed noise")
    for offset, name, noise, seen in [
        (0, "local noise", "all of its noise", "every upload is protected by itself"),
        (360, "distributed noise", "a share of it", "only the sum is protected"),
    ]:
        drawn.text(offset + 180, 30, name, bold=True)
        for number, hospital in enumerate("ABC"):
            x = offset + 25 + 110 * number
            drawn.box(x, 50, 90, 46, f"hospital {hospital}", color=BLUE)
            full = offset == 0
            drawn.bar(x + 18, 106, 54 if full else 18, 10, RED)
            drawn.text(x + 45, 134, noise, size=12, color=RED)
            drawn.arrow(x + 45, 142, offset + 180, 205, color=SOFT)
        drawn.box(offset + 115, 208, 130, 40, "coordinator", color=GREEN)
        drawn.bar(offset + 153, 258, 94 if offset == 0 else 54, 10, RED)
        drawn.text(
            offset + 180,
            292,
            "noise in the sum" + (": more than needed" if offset == 0 else ": what is needed"),
            size=12,
            color=RED,
        )
        drawn.text(offset + 180, 316, seen, size=13)
    return drawn


def secure_sum() -> Drawing:
    """Draw three hospitals, their three shared pads, and what the coordinator sees."""
    drawn = Drawing(720, 300, "Pads cancel in the sum")
    rows = [
        ("hospital A", "17", "+ pad(A,B) + pad(A,C)"),
        ("hospital B", "5", "− pad(A,B) + pad(B,C)"),
        ("hospital C", "11", "− pad(A,C) − pad(B,C)"),
    ]
    drawn.text(75, 28, "each has", bold=True)
    drawn.text(300, 28, "adds pads that two of them share", bold=True)
    drawn.text(560, 28, "the coordinator sees", bold=True)
    for number, (who, value, pads) in enumerate(rows):
        y = 50 + 58 * number
        drawn.box(14, y, 136, 44, who, f"{value} + noise share", color=BLUE)
        drawn.text(300, y + 27, pads, color=RED)
        drawn.arrow(158, y + 22, 198, y + 22, color=SOFT)
        drawn.arrow(405, y + 22, 470, y + 22, color=SOFT)
        drawn.text(560, y + 27, "looks uniformly random", color=SOFT)
    drawn.line([(470, 228), (650, 228)], INK, 1.5)
    drawn.text(300, 256, "every pad is added once and subtracted once", color=RED)
    drawn.text(560, 256, "the sum: 33 + noise", bold=True, color=GREEN)
    drawn.text(
        360,
        286,
        "If one is missing, its pads do not cancel: the sum is unreadable and is discarded.",
        size=13,
        color=SOFT,
    )
    return drawn


def round_() -> Drawing:
    """Draw one round of a secure sum, from top to bottom."""
    drawn = Drawing(760, 520, "One round, step by step")
    a, c, b = 110.0, 380.0, 650.0
    for x, name, color in [
        (a, "hospital A", BLUE),
        (c, "coordinator", GREEN),
        (b, "hospitals B, C, D", BLUE),
    ]:
        drawn.box(x - 75, 16, 150, 34, name, color=color)
        drawn.line([(x, 50), (x, 505)], "#c9d0d8", 1)
    drawn.text(a, 76, "once a run", color=SOFT, size=12)
    drawn.arrow(c, 92, a, 92, "1 join")
    drawn.arrow(a, 122, c, 122, "2 run key, signed by A, with an epoch")
    drawn.arrow(c, 152, b, 152, "3 join, with everyone's keys")
    drawn.arrow(b, 182, c, 182, "4 vouchers: the highest head I saw of A")
    drawn.text(a, 214, "every round", color=SOFT, size=12)
    drawn.arrow(c, 230, a, 230, "5 model, cohort, heads, own voucher")
    drawn.arrow(c, 230, b, 230, "5 the same")
    drawn.blank(20, 250, 560, 100)
    for number, step in enumerate(
        [
            "6 keys of the approved study? ledger as high as a partner saw? cohort large enough?",
            "7 clip each patient, sum, round, add a share of the noise",
            "8 add or subtract the pad shared with each partner",
            "9 write the encrypted reply, commit the ledger row, then send",
        ]
    ):
        drawn.text(24, 268 + 24 * number, step, anchor="start", size=13)
    drawn.arrow(a, 382, c, 382, "10 looks uniformly random")
    drawn.arrow(b, 382, c, 382, "10 looks uniformly random")
    drawn.blank(190, 404, 380, 84)
    drawn.text(c, 420, "11 all replied: pads cancel and leave the noisy sum", size=13, color=GREEN)
    drawn.text(c, 444, "one missing: discarded, and the others are asked again", size=13, color=RED)
    drawn.text(c, 480, "12 the step is taken, saved, and the next round begins", size=13)
    return drawn


def aws() -> Drawing:
    """Draw the parts of an installation in an AWS account."""
    drawn = Drawing(760, 380, "FLO in AWS")
    drawn.box(20, 150, 130, 50, "hospital agents", color=BLUE)
    drawn.box(215, 150, 130, 50, "load balancer", "TCP, :9443")
    drawn.text(390, 60, "private network: reaches only AWS's endpoints", size=12, color=SOFT)
    drawn.box(410, 150, 150, 50, "coordinator", "one EC2 machine", color=GREEN)
    drawn.box(410, 270, 150, 50, "training job", "rounds and sums", color=GREEN)
    drawn.box(620, 80, 120, 50, "SageMaker", "begins jobs")
    drawn.box(620, 155, 120, 50, "S3, audit log", "Object Lock")
    drawn.box(620, 230, 120, 50, "KMS", "a key a purpose")
    drawn.box(620, 305, 120, 50, "S3, artifacts", "all sealed")
    drawn.arrow(150, 175, 215, 175)
    drawn.text(183, 140, "mutual TLS", size=12)
    drawn.arrow(345, 175, 410, 175)
    drawn.arrow(485, 270, 485, 200, color=SOFT)
    drawn.text(500, 240, ":9444", anchor="start", size=12, color=SOFT)
    drawn.arrow(560, 165, 620, 110, color=SOFT)
    drawn.arrow(560, 178, 620, 180, color=SOFT)
    drawn.arrow(560, 190, 620, 245, color=SOFT)
    drawn.arrow(560, 290, 620, 262, color=SOFT)
    drawn.arrow(560, 305, 620, 328, color=SOFT)
    return drawn


def years() -> Drawing:
    """Draw AUC by year, from the table of the example of five years."""
    drawn = Drawing(720, 340, "AUC by year of a study that is repeated")
    rows = _YEAR.findall((YEARLY / "README.md").read_text(encoding="utf-8"))
    values = [[float(f"0{auc}") for auc in row[1:]] for row in rows]
    left, right, bottom, top, low, high = 70.0, 480.0, 290.0, 30.0, 0.795, 0.85

    def at(year: float, auc: float) -> tuple[float, float]:
        across = left + (right - left) * (year - 1) / (len(values) - 1)
        return across, bottom - (bottom - top) * (auc - low) / (high - low)

    for tick in (0.80, 0.81, 0.82, 0.83, 0.84, 0.85):
        _, y = at(1, tick)
        drawn.line([(left, y), (right, y)], "#e3e8ee", 1)
        drawn.text(left - 10, y + 5, f"{tick:.2f}", anchor="end", color=SOFT, size=13)
    for year in range(1, len(values) + 1):
        drawn.text(at(year, low)[0], bottom + 22, str(year), color=SOFT, size=13)
    drawn.text((left + right) / 2, bottom + 44, "year", size=13)
    drawn.text(left - 44, 20, "AUC", anchor="start", size=13)
    names = ("first model", "this year's patients", "goes on learning", "all at once")
    for column, (name, color) in enumerate(zip(names, (SOFT, "#c98a2b", BLUE, GREEN), strict=True)):
        points = [at(year, row[column]) for year, row in enumerate(values, start=1)]
        drawn.line(points, color, 3 if color == BLUE else 2)
        shift = {"first model": 12, "this year's patients": -2}.get(name, 5)
        drawn.text(right + 12, points[-1][1] + shift, name, anchor="start", color=color)
    return drawn


DRAWINGS = {
    HERE / "epsilon.svg": epsilon,
    HERE / "trust-models.svg": trust_models,
    HERE / "secure-sum.svg": secure_sum,
    HERE / "round.svg": round_,
    HERE / "aws.svg": aws,
    YEARLY / "years.svg": years,
}


def main() -> None:
    """Write all drawings."""
    for path, draw in DRAWINGS.items():
        path.write_text(draw().svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
