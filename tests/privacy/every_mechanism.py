"""Every mechanism there is, as examples and as a strategy: what holds for one holds for all."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import strategies as st

from flo.privacy.mechanisms.mechanisms import (
    FullBatchSum,
    Histogram,
    Mechanism,
    PoissonSum,
    ScoreWaves,
)

INF, NAN = math.inf, math.nan
FULL, SAMPLED = FullBatchSum(7, 3.25, 0.5), PoissonSum(7, 3.25, 0.5, 0.25)
COUNTS, GROUPED, WAVES = Histogram(8, 3.25), Histogram(8, 3.25, 4), ScoreWaves(8, 3.25)
MECHANISMS = [FULL, SAMPLED, COUNTS, GROUPED, WAVES]
NAMES = ["full batch", "sampled", "histogram", "histogram of 4 groups", "score waves"]


sigmas, lengths = st.floats(1e-2, 1e4), st.integers(1, 10**6)
mechanisms: st.SearchStrategy[Mechanism] = st.one_of(
    st.builds(FullBatchSum, lengths, sigmas, st.floats(1e-6, 1e6)),
    st.builds(
        PoissonSum, lengths, sigmas, st.floats(1e-6, 1e6), st.floats(0.001, 1, exclude_max=True)
    ),
    lengths.flatmap(
        lambda length: st.builds(Histogram, st.just(length), sigmas, st.integers(1, length))
    ),
    st.builds(ScoreWaves, st.just(130), sigmas, st.integers(1, 130)),
)
every_mechanism = pytest.mark.parametrize("mechanism", MECHANISMS, ids=NAMES)


def document(mechanism: Mechanism = FULL, **changes: Any) -> dict[str, Any]:
    return {**mechanism.as_document(), **changes}
