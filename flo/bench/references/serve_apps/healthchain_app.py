"""The reference in HealthChain: a CDS Hooks service that scores the prefetched observations.

It checks no token, signs no log, and checks neither patient, unit, status nor date of a resource.
"""

from typing import Any

import numpy as np
from healthchain.gateway import CDSHooksService, HealthChainAPI
from healthchain.models import CDSRequest, CDSResponse
from healthchain.models.responses.cdsresponse import Card, IndicatorEnum, Source

app = HealthChainAPI()
cds = CDSHooksService()
WEIGHTS = np.random.default_rng(1).normal(size=13)


def cell(bundle: dict[str, Any]) -> float:
    """Return the number of a prefetched observation."""
    resource = bundle["entry"][0]["resource"]
    quantity = resource.get("valueQuantity")
    return float(quantity["value"]) if quantity else float(len(resource["valueString"]))


@cds.hook("patient-view", id="score")
def score(request: CDSRequest) -> CDSResponse:
    """Return a card with the risk and three reasons."""
    cells = [cell(one) for one in request.prefetch.values() if one["resourceType"] == "Bundle"]
    inputs = np.array(cells)
    risk = float(1 / (1 + np.exp(-inputs @ WEIGHTS[: len(inputs)] / 100)))
    reasons = np.argsort(-np.abs(inputs * WEIGHTS[: len(inputs)]))[:3]
    detail = ", ".join(map(str, reasons))
    card = Card(
        summary=f"Risk {100 * risk:.1f} %",
        indicator=IndicatorEnum.info,
        source=Source(label="reference"),
        detail=detail,
    )
    return CDSResponse(cards=[card])


app.register_service(cds)
