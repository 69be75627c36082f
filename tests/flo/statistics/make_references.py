"""Values of lifelines and statsmodels for the patients of SUPPORT2, for the tests in this folder.

Run in an environment of its own, because lifelines' warnings fail FLO's suite:

    pip install lifelines==0.30.3 statsmodels==0.15.0
    python tests/flo/statistics/make_references.py support2.csv > references.json
"""

from __future__ import annotations

import json
import sys
from typing import Any

import pandas as pd
import statsmodels.api as sm
import statsmodels.formula.api as smf
from lifelines import KaplanMeierFitter
from lifelines.statistics import multivariate_logrank_test

EDGES = [30, 60, 90, 120, 150, 180, 270, 365, 545, 730, 1095, 1460]


def main(file: str) -> None:
    """Write the references as JSON."""
    table = pd.read_csv(file)
    table["old"] = (table["age"] > 65).map({True: "over 65", False: "up to 65"})
    found: dict[str, Any] = {"edges": EDGES, "curves": {}, "medians": {}}
    groups = {"all": table, **{f"sex={sex}": part for sex, part in table.groupby("sex")}}
    for name, part in groups.items():
        fitted = KaplanMeierFitter().fit(part["d.time"], part["death"])
        found["curves"][name] = [float(fitted.predict(edge)) for edge in EDGES]
        found["medians"][name] = float(fitted.median_survival_time_)
    for name, until in (("log_rank", EDGES[-1]), ("log_rank_270", 270)):
        died = table["death"].where(table["d.time"] <= until, 0)
        time = table["d.time"].clip(upper=until)
        found[name] = {}
        for by in ("sex", "old", "ca"):
            test = multivariate_logrank_test(time, table[by], died)
            figures = {"statistic": float(test.test_statistic), "p": float(test.p_value)}
            found[name][by] = figures
    found["regressions"] = regressions(table)
    json.dump(found, sys.stdout, indent=1)
    sys.stdout.write("\n")


def regressions(table: pd.DataFrame) -> dict[str, Any]:
    """Return coefficients, standard errors, p-values and the Wald test of three regressions."""
    limits = {"age": (18, 100), "meanbp": (40, 160), "bili": (0, 10), "alb": (1.5, 4.5)}
    for name, ends in limits.items():
        table[name] = table[name].clip(*ends)
    ca = "C(ca, Treatment('no'))"
    death = smf.logit(f"death ~ age + meanbp + C(sex) + {ca}", table).fit(disp=False)
    albumin = smf.ols("alb ~ age + bili + C(sex)", table).fit()
    poisson = smf.glm("bili ~ age + C(sex)", table, family=sm.families.Poisson())
    plain = poisson.fit()
    left = plain.resid_response
    dispersion = float((left**2).sum() / plain.fittedvalues.sum())
    bilirubin = poisson.fit(scale=dispersion)
    return {"death": _of(death), "albumin": _of(albumin), "bilirubin": _of(bilirubin)}


def _of(fitted: Any) -> dict[str, Any]:
    slopes = list(fitted.params.index[1:])
    wald = fitted.wald_test(slopes, use_f=False, scalar=True)
    return {
        "names": list(fitted.params.index),
        "coefficients": fitted.params.tolist(),
        "errors": fitted.bse.tolist(),
        "p": fitted.pvalues.tolist(),
        "patients": int(fitted.nobs),
        "wald": float(wald.statistic),
    }


if __name__ == "__main__":
    main(sys.argv[1])
