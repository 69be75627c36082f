"""This site's run keys: one for each run, in memory only, new after every start of the agent.

Step 1 and 3 of the protocol in ``flo.privacy.secure_sum.masking``.

A key that a restarted process no longer has cannot mask twice. Its epoch is the time in
milliseconds, or one more than that of the latest key of ours that others have seen, should that be
higher; partners refuse an older one.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from flo.keys.claims import LedgerHead, RunKey
from flo.keys.identity import Identity
from flo.privacy.secure_sum.masking import new_run_key, pair_secret

_MOST_RUNS = 64  # a site is in few at once; beyond, the key of the run asked longest ago goes


@dataclass
class OwnKey:
    """Our key for one run, and what must be remembered with it.

    ``confirmed``: a partner agreed that our ledger is the newest. ``seen``: fingerprint -> the
    highest ledger head known of a partner when the key was made, or shown in this run since.
    """

    private: X25519PrivateKey = field(repr=False)
    public: RunKey
    seen: dict[str, LedgerHead]
    confirmed: bool = False
    _secrets: dict[str, bytes] = field(default_factory=dict, repr=False)

    def secrets(self, partners: list[RunKey]) -> dict[str, bytes]:
        """Fingerprint -> the secret we share with that partner. [3] Raises TrustError."""
        for partner in partners:
            if partner.key not in self._secrets:
                self._secrets[partner.key] = pair_secret(self.private, partner)
        return {partner.fingerprint: self._secrets[partner.key] for partner in partners}


class RunKeys:
    """Keep one for as long as the process lives."""

    def __init__(self, identity: Identity, clock: Callable[[], float] = time.time) -> None:
        self._identity, self._clock = identity, clock
        self._keys: OrderedDict[tuple[str, str], OwnKey] = OrderedDict()

    def join(
        self, study: str, run: str, relayed: RunKey | None, witnessed: Mapping[str, LedgerHead]
    ) -> OwnKey:
        """Our key for a run, made at the first call. [1]

        ``relayed`` is the latest key of ours that others hold, checked; it is made anew where that
        one is later and another: then this process went back in time. ``witnessed``: the highest
        ledger heads seen so far.
        """
        kept = self._keys.pop((study, run), None)
        behind = (
            kept is not None
            and relayed is not None
            and relayed.key != kept.public.key
            and relayed.epoch >= kept.public.epoch
        )
        if kept is None or behind:
            epoch = max(int(self._clock() * 1000), relayed.epoch + 1 if relayed else 1)
            private, public = new_run_key(self._identity, study, run, epoch)
            kept = OwnKey(private, public, dict(witnessed))
        self._keys[study, run] = kept
        while len(self._keys) > _MOST_RUNS:
            self._keys.popitem(last=False)
        return kept
