"""Run keys of this site: one per run, in memory only, new after every start of the agent.

Steps 1 and 3 of the protocol in ``flo.privacy.secure_sum.masking``.

A restarted process no longer has its earlier keys, so it cannot mask with one of them again. The
epoch of a key is the time in milliseconds, or one more than the epoch of our latest key that others
have seen, if that is higher. Partners refuse a key with an older epoch.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from flo.clients.agent.dealing import Dealing
from flo.keys.claims import LedgerHead, RunKey
from flo.keys.identity import Identity
from flo.privacy.secure_sum.masking import new_run_key, pair_secret

_MOST_RUNS = 64  # a site is in few at once; beyond that, drop the least recently used key


@dataclass
class OwnKey:
    """Our key for one run, and the state that belongs to it.

    ``confirmed``: a partner agreed that our ledger is the newest. ``seen``: fingerprint -> the
    highest ledger head of a partner, known when the key was made or shown in this run since.
    ``dealing``: our deals for sums that survive dropouts.
    """

    private: X25519PrivateKey = field(repr=False)
    public: RunKey
    seen: dict[str, LedgerHead]
    confirmed: bool = False
    dealing: Dealing = field(default_factory=Dealing, repr=False)
    _secrets: dict[str, bytes] = field(default_factory=dict, repr=False)

    def secrets(self, partners: list[RunKey]) -> dict[str, bytes]:
        """Return fingerprint -> the secret shared with that partner. [3] Raises TrustError."""
        for partner in partners:
            if partner.key not in self._secrets:
                self._secrets[partner.key] = pair_secret(self.private, partner)
        return {partner.fingerprint: self._secrets[partner.key] for partner in partners}


class RunKeys:
    """Run keys of one site. Keep one instance for the lifetime of the process."""

    def __init__(self, identity: Identity, clock: Callable[[], float] = time.time) -> None:
        self._identity, self._clock = identity, clock
        self._keys: OrderedDict[tuple[str, str], OwnKey] = OrderedDict()

    def join(
        self,
        study: str,
        run: str,
        relayed: RunKey | None,
        witnessed: Mapping[str, LedgerHead],
        *,
        deals: bool = True,
    ) -> OwnKey:
        """Return our key for a run; make it at the first call. [1]

        ``relayed``: our latest key that others hold, already checked. If it differs from ours and
        its epoch is not lower, this process was set back in time, and a new key is made.
        ``witnessed``: the highest ledger heads seen so far. ``deals``: whether the study's sums
        survive dropouts.
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
            private, public = new_run_key(self._identity, study, run, epoch, deals=deals)
            kept = OwnKey(private, public, dict(witnessed))
        self._keys[study, run] = kept
        while len(self._keys) > _MOST_RUNS:
            self._keys.popitem(last=False)
        return kept

    def current(self, study: str, run: str) -> OwnKey | None:
        """Return our key for a run that we joined in this process, or None."""
        return self._keys.get((study, run))
