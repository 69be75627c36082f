"""The forecast of ``flo aws advise`` beside three libraries', on the same weeks of real traces.

    python -m tests.proofs.forecast_libraries

Needs ``pip install statsforecast prophet statsmodels pandas``, in an environment of its own; FLO
does not use them, so they are not among its requirements. Each forecasts the next week, hour by
hour, at the end of each of 26 weeks from the 16 weeks before; the error is the mean absolute one,
in parts of FLO's.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from flo.arrays import Floats
from flo.infra.aws.scaling.forecast import WEEKS, profile
from flo.infra.aws.scaling.trace import WEEK, Trace
from tests.proofs.request_traces import ZONES, request_trace

_TRAINED, _JUDGED = 16, 26  # weeks


def own(past: Floats, hours_of_week: Any, following: Any) -> Floats:
    recent = slice(-WEEKS * WEEK, None)
    found: Floats = profile(past[recent], hours_of_week[recent])[following]
    return found


def mstl_and_ets(past: Floats, hours_of_week: Any, following: Any) -> Any:
    from statsforecast.models import MSTL, AutoETS  # type: ignore[import-not-found]

    model = MSTL(season_length=[24, WEEK], trend_forecaster=AutoETS(model="ZZN"))
    return model.forecast(y=past, h=WEEK)["mean"]


def prophet(past: Floats, hours_of_week: Any, following: Any) -> Any:
    import pandas as pd
    from prophet import Prophet  # type: ignore[import-not-found]

    times = pd.date_range("2020-01-06", periods=len(past) + WEEK, freq="h")
    model = Prophet(daily_seasonality=True, weekly_seasonality=20, yearly_seasonality=False)
    model.fit(pd.DataFrame({"ds": times[: len(past)], "y": past}))
    return model.predict(pd.DataFrame({"ds": times[len(past) :]}))["yhat"].to_numpy()


def holt_winters(past: Floats, hours_of_week: Any, following: Any) -> Any:
    from statsmodels.tsa.holtwinters import ExponentialSmoothing

    model = ExponentialSmoothing(past, seasonal="add", seasonal_periods=WEEK)
    return model.fit().forecast(WEEK)


WAYS: dict[str, Callable[[Floats, Any, Any], Any]] = {
    "mean of four weeks (FLO)": own,
    "statsforecast, MSTL and AutoETS": mstl_and_ets,
    "prophet, days and weeks": prophet,
    "statsmodels, Holt-Winters": holt_winters,
}


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        for name in ZONES:
            trace = request_trace(name, Path(folder)).last(_TRAINED + _JUDGED + 1)
            first = None
            for way, forecast in WAYS.items():
                began = time.monotonic()
                error = _error(trace, forecast)
                first = first or error
                seconds = (time.monotonic() - began) / _JUDGED
                sys.stdout.write(f"{name:18} {way:34} {error / first:6.3f} {seconds:8.3f} s\n")
                sys.stdout.flush()


def _error(trace: Trace, forecast: Callable[[Floats, Any, Any], Any]) -> float:
    hourly, hours = trace.hourly, trace.hours_of_week
    errors = []
    for week in range(_JUDGED):
        now = (_TRAINED + week) * WEEK
        past, following = slice(now - _TRAINED * WEEK, now), slice(now, now + WEEK)
        found = np.maximum(forecast(hourly[past], hours[past], hours[following]), 0.0)
        errors.append(np.abs(found - hourly[following]).mean())
    return float(np.mean(errors))


if __name__ == "__main__":
    main()
