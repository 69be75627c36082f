"""The report as one self-contained page for a data protection officer: no script, no network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from flo.documents import canonical
from flo.privacy.releases.calibration import Calibration
from flo.privacy.report import risks
from flo.privacy.report.wording import LIFE

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 720, 300, 56, 44, 16, 130


def render(
    report: bytes,
    calibration: Calibration | None = None,
    *,
    prv: float | None = None,
    electricity: str = "",
) -> str:
    """Render a report made by ``flo.privacy.report.report.build`` as HTML.

    Not part of the report, and shown with it: ``calibration`` of the study's model card, ``prv``,
    the study's ε by Opacus' accountant, and ``electricity``, the coordinator's estimate in words.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    facts = json.loads(report)["facts"]
    return environment.get_template("report.html.j2").render(
        facts=facts,
        life=LIFE,
        prv=prv,
        electricity=electricity,
        plot=plot(facts),
        digest=canonical.digest(report),
        level=calibration.level if calibration else None,
        risks=calibration and risks.plot(calibration),
        risk_rows=risks.rows(calibration) if calibration else [],
    )


_NAMED = {"gate": "the gate", "monitor": "the monitor"}


def plot(facts: dict[str, Any]) -> dict[str, Any]:
    """Return coordinates of the plot of ε over releases: axes, line per hospital, study's ε."""
    budget = facts["guarantee"]["epsilon"]
    sigma = facts["hospitals"][0]["sigma"]
    shown = ("training", "survey", "regression", "statistics", "gate", "monitor")
    purpose = next(p for p in shown if p in sigma)
    with_moments = any("moments" in site["sigma"] for site in facts["hospitals"])
    most = max([1, *(n for site in facts["hospitals"] for n, _ in site["epsilon_by_release"])])
    top = 1.15 * max([budget, *(e for s in facts["hospitals"] for _, e in s["epsilon_by_release"])])

    def x(release: float) -> float:
        return float(_LEFT + (_WIDTH - _LEFT - _RIGHT) * release / most)

    def y(epsilon: float) -> float:
        return float(_HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * epsilon / top)

    lines = []
    seen: dict[tuple[tuple[int, float], ...], list[str]] = {}
    for site in facts["hospitals"]:
        seen.setdefault(tuple(map(tuple, site["epsilon_by_release"])), []).append(site["hospital"])
    for curve, hospitals in seen.items():
        points = [(0, 0.0), *curve]
        many = f"{len(hospitals)} hospitals"
        lines.append(
            {
                "points": " ".join(f"{x(n):.1f},{y(e):.1f}" for n, e in points),
                "end": (x(points[-1][0]), y(points[-1][1])),
                "label": ", ".join(hospitals) if len(hospitals) < 3 else many,
            }
        )
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10_000) if most / s <= 8)
    return {
        "purpose": purpose,
        "releases": "second moments and training" if with_moments else _NAMED.get(purpose, purpose),
        "width": _WIDTH,
        "height": _HEIGHT,
        "left": _LEFT,
        "right": _WIDTH - _RIGHT,
        "bottom": _HEIGHT - _BOTTOM,
        "budget": y(budget),
        "lines": lines,
        "ticks_x": [(x(n), n) for n in range(0, most + 1, step)],
        "ticks_y": [(y(budget * k / 4), f"{budget * k / 4:.2f}") for k in range(5)],
    }
