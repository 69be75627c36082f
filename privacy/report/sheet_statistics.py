"""What a study of statistics asks, in plain language: each part, its noise, and what it can say."""

from __future__ import annotations

import math

from flo.privacy.accounting.plan import Plan, combined_variance
from flo.privacy.releases import regressions, statistics
from flo.privacy.releases.catalogue import CatalogueBlock
from flo.privacy.releases.fisher_scoring import least_signal
from flo.privacy.releases.regressions import RegressionBlock
from flo.privacy.releases.statistics import Block
from flo.study.columns import CategoryColumn
from flo.study.document import Study
from flo.study.statistics import ROUNDS, Survival

_Z = 1.96


def statistics_leaves(study: Study) -> dict[str, str]:
    """Say what each part counts, and how many patients its noise is worth."""
    plan, lines = Plan.of(study), dict[str, str]()
    of_regressions, hospitals = regressions.share_of(study), len(study.hospitals)
    if "statistics" in plan.purposes:
        part = plan.purpose("statistics")
        lines["one release"] = f"1 noisy sum of {part.mechanism.length} numbers about all patients"
        variance = combined_variance(study, part, hospitals)
        for block in statistics.layout(study):
            share = block.share * (1 - of_regressions)
            said = (
                _catalogue(study, block, variance)
                if isinstance(block, CatalogueBlock)
                else _counts(study, block, variance)
            )
            lines[f"{block.part.name} ({share:.0%} of the cost)"] = said
    if "regression" in plan.purposes:
        part = plan.purpose("regression")
        lines["regressions"] = (
            f"{part.planned} noisy sums of {part.mechanism.length} numbers about all patients: "
            "scores and information, each at coefficients that the coordinator names"
        )
        variance = combined_variance(study, part, hospitals)
        for regression in regressions.layout(study):
            share = regression.share * of_regressions
            lines[f"{regression.part.name} ({share:.0%} of the cost)"] = _regression(
                study, regression, variance
            )
    lines["model"] = "no model is trained"
    return lines


def _everyone(study: Study) -> int:
    return sum(hospital.planned for hospital in study.hospitals)


def _counts(study: Study, block: Block, variance: float) -> str:
    asked, everyone = block.part, _everyone(study)
    by = f" by {asked.by}" if asked.by else ""
    what = (
        f"survival by {asked.time} and {asked.event}, {len(asked.edges)} intervals{by}"
        if isinstance(asked, Survival)
        else f"counts, means, deviations and quartiles of {', '.join(asked.columns)}{by}"
    )
    half = _Z * math.sqrt(variance) / block.scale
    return (
        f"{what}. A count is right within ± {half:.0f} patients (95 %), so a code or cell of "
        f"fewer than {2 * half:.0f} ({2 * half / everyone:.1%} of all) says little"
    )


def _catalogue(study: Study, block: CatalogueBlock, variance: float) -> str:
    names = ", ".join(column.name for column in block.columns)
    columns = [(n,) for n in range(len(block.columns))]
    whole = [_Z * block.deviation(places, variance) for places in columns]
    said = (
        f"counts of every column ({names}) and of {len(block.pairs)} pairs of them, from which "
        f"later questions are answered at no further ε. A count of one column is right within "
        f"± {max(whole):.0f} patients (95 %)"
    )
    if block.pairs:
        cells = [_Z * block.deviation(pair, variance) for pair in block.pairs]
        said += f", of a cell of a pair within ± {max(cells):.0f}"
    return said


def _regression(study: Study, block: RegressionBlock, variance: float) -> str:
    """Say from how many patients it may be shown: if predictors were at their bounds always."""
    asked, rounds = block.part, ROUNDS if block.part.family == "linear" else ROUNDS - 1
    informed = 0.25 if asked.family == "logistic" else 1.0
    columns = {column.name: column for column in study.data.columns}
    spread = [
        1 / (len(column.codes) - 1) if isinstance(column, CategoryColumn) else 1.0
        for column in (columns[name] for name in asked.predictors)
    ]
    _, of_information = regressions.noise_of(block, variance)
    loud = of_information * math.sqrt(2 * block.size / rounds)
    needed = least_signal(asked) * loud / (informed * min(spread))
    said = (
        f"{asked.family} regression of {asked.outcome} on {', '.join(asked.predictors)}. Noise "
        f"hides it if patients are fewer than about {needed:,.0f}; many times as many are needed "
        "if the outcome or a code is rare or a number stays within a part of its bounds: flo "
        "study check --like foresees it"
    )
    if needed > 2 * _everyone(study):
        said += f". The hospitals have {_everyone(study):,}: it will hardly be shown"
    return said
