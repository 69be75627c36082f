"""FLO: hospitals train one model together and prove what it cost in privacy.

Importing this package loads no heavy module. In a notebook, use ``flo.load``, ``flo.simulate`` and
``flo.compare`` for models, ``flo.answer`` and ``flo.results`` for statistics. Otherwise import the
package you need: ``flo.study`` (the signed agreement), ``flo.privacy`` (mechanisms, accounting,
ledger, report), ``flo.server`` (coordinator), ``flo.clients`` (a hospital's site), ``flo.lab``
(trying a study on one machine).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flo.lab.answers import answer, results
    from flo.lab.notebook import compare, load, simulate

# Libraries that report their use to their makers, unless they are told not to before they are
# imported. ONNX Runtime does so from 1.29 on, and keeps a number of the machine in ~/.cache.
SILENT = {
    "ORT_DISABLE_TELEMETRY": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
os.environ.update(SILENT)

__version__ = "0.2.0"
__all__ = ["answer", "compare", "load", "results", "simulate"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'flo' has no attribute {name!r}")
    from flo.lab import answers, notebook

    return getattr(answers if name in ("answer", "results") else notebook, name)
