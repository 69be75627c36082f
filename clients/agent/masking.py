"""Mask the values of one release with the pads of its attempt.

Steps 5 and 10 of the protocol in ``flo.privacy.secure_sum.masking``.
"""

from __future__ import annotations

import numpy as np

from flo.arrays import Integers
from flo.clients.agent.dealing import Ready
from flo.clients.agent.run_keys import OwnKey
from flo.privacy.accounting.plan import Plan, components_of, ring_of
from flo.privacy.secure_sum.components import add_noise
from flo.privacy.secure_sum.masking import Attempt, add_masks, attempt_of, masked
from flo.privacy.secure_sum.ring import Int32Array, to_ring
from flo.protocol.messages import RequestHeader, Values
from flo.study.document import Study


def attempt_at(study: Study, header: RequestHeader, length: int) -> Attempt:
    """Return the attempt of a request for a masked release of ``length`` numbers."""
    part = Plan.of(study).purpose(header.purpose)
    return attempt_of(header, ring_of(study, part, len(header.cohort)), length)


def mask(
    study: Study,
    header: RequestHeader,
    own: OwnKey,
    noisy: Integers | Int32Array,
    ready: Ready | None = None,
) -> Values:
    """Return ``noisy`` under this attempt's pads.

    Unchanged if the study is not masked; but in 64 bits for studies up to schema 3, whose
    coordinators may read no others. ``ready``: our part in a sum that survives dropouts; removable
    noise and a self mask are added.
    The caller has checked every key in ``header``.
    """
    if not study.masked:
        return noisy if study.schema_version >= 4 else noisy.astype(np.int64, copy=False)
    attempt, mine = attempt_at(study, header, len(noisy)), own.public.fingerprint
    if ready is None:
        partners = [key for key in header.keys.values() if key.fingerprint != mine]
        return masked(noisy, mine, own.secrets(partners), attempt)
    part = Plan.of(study).purpose(header.purpose)
    added = components_of(study, part, len(header.cohort))
    total = to_ring(noisy, attempt.ring)
    add_noise(total, attempt, ((ready.seeds[each.level - 1], each) for each in added))
    add_masks(total, mine, ready.secrets, attempt, ready.seeds[-1])
    return total
