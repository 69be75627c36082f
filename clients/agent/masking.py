"""Mask the values of one release with the pads of its attempt.

Steps 4 and 5 of the protocol in ``flo.privacy.secure_sum.masking``.
"""

from __future__ import annotations

import numpy as np

from flo.arrays import Integers
from flo.clients.agent.request_facts import cohort_of
from flo.clients.agent.run_keys import OwnKey
from flo.privacy.accounting.plan import Plan, ring_of
from flo.privacy.secure_sum.masking import Attempt, masked
from flo.privacy.secure_sum.ring import Int32Array
from flo.protocol.messages import RequestHeader, Values
from flo.study.document import Study


def mask(study: Study, header: RequestHeader, own: OwnKey, noisy: Integers | Int32Array) -> Values:
    """Return ``noisy`` under this attempt's pads, or unchanged if the study is not masked.

    The caller has checked every key in ``header``.
    """
    ring = ring_of(study, Plan.of(study).purpose(header.purpose), len(header.cohort))
    if ring == 0:
        return noisy.astype(np.int64, copy=False)
    attempt = Attempt(
        study=header.study,
        run=header.run,
        purpose=header.purpose,
        round=header.round,
        attempt=header.attempt,
        cohort=cohort_of(header),
        model=header.model,
        ring=ring,
        length=len(noisy),
    )
    mine = own.public.fingerprint
    partners = [key for key in header.keys.values() if key.fingerprint != mine]
    return masked(noisy, mine, own.secrets(partners), attempt)
