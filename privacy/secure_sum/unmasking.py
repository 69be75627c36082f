"""Open a sum that hospitals are missing from: recover secrets from shares, remove what they hide.

The coordinator's side of steps 13 and 14 of the protocol in ``flo.privacy.secure_sum.masking``. The
sum of the survivors' uploads contains, besides what is wanted, each survivor's self mask, the pads
between survivors and missing hospitals, and more noise than is needed. Shares that do not match the
hashes of their deal are left out; ``threshold`` right ones are enough.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from flo.errors import TrustError
from flo.privacy.secure_sum.components import Component, add_noise, seed_after
from flo.privacy.secure_sum.deals import check, opened
from flo.privacy.secure_sum.masking import Attempt, add, exchange, pads, self_mask
from flo.privacy.secure_sum.ring import Masked
from flo.protocol.deals import CHECK_BYTES, Deal
from flo.study.tolerance import Tolerance


@dataclass(frozen=True)
class Member:
    """A hospital of the cohort: its number among all hospitals, its fingerprint, its deal."""

    number: int
    fingerprint: str
    deal: Deal


class BadDeal(TrustError):
    """A hospital did not deal what its deal shows, so its secret cannot be opened."""

    def __init__(self, dealer: str, why: str) -> None:
        super().__init__(f"{dealer}: {why}")
        self.dealer = dealer


@dataclass(frozen=True)
class Opened:
    """Secrets of one attempt: a seed of each survivor, the private key of each missing hospital."""

    seeds: dict[str, bytes]
    keys: dict[str, bytes]


class Shares:
    """The right shares of one attempt's secrets, as survivors reveal them."""

    def __init__(
        self, members: Mapping[str, Member], survivors: Collection[str], tolerance: Tolerance
    ) -> None:
        self._members, self._survivors, self._tolerance = members, survivors, tolerance
        self._place = 1 + tolerance.level(len(survivors))
        self._right: dict[str, dict[int, bytes]] = {dealer: {} for dealer in members}
        self._holders: set[str] = set()

    def add(self, holder: str, revealed: Mapping[str, bytes]) -> list[str]:
        """Add what ``holder`` revealed, by dealer; return the dealers whose share is wrong."""
        number, wrong = self._members[holder].number, []
        self._holders.add(holder)
        for dealer, member in self._members.items():
            share, place = revealed.get(dealer), self._place_of(dealer)
            shown = bytes.fromhex(member.deal.checks.get(holder, ""))
            shown = shown[place * CHECK_BYTES : (place + 1) * CHECK_BYTES]
            if share is not None and check(number, place, share) == shown:
                self._right[dealer][number] = share
            else:
                wrong.append(dealer)
        return wrong

    @property
    def are_enough(self) -> bool:
        """Whether every secret has ``threshold`` right shares."""
        return all(len(each) >= self._tolerance.threshold for each in self._right.values())

    def open(self) -> Opened:
        """Recover the secrets.

        Raises:
            BadDeal: a hospital did not deal what it shows: what its right shares open is something
                else, or more than b hospitals have no right share. TrustError: otherwise fewer than
                ``threshold`` right shares of a secret. Both name the dealer.
        """
        secrets = {}
        for dealer, shares in self._right.items():
            dealt, place = self._members[dealer].deal, self._place_of(dealer)
            if len(self._holders) - len(shares) > self._tolerance.colluders:
                raise BadDeal(dealer, "more hospitals have no right share of it than may lie")
            if len(shares) < self._tolerance.threshold:
                raise TrustError(
                    f"{dealer}: {len(shares)} right shares, {self._tolerance.threshold} needed"
                )
            try:
                secrets[dealer] = opened(dealt, place, shares, self._tolerance.threshold)
            except TrustError as error:
                raise BadDeal(dealer, str(error)) from error
        seeds = {name: secrets[name] for name in secrets if name in self._survivors}
        return Opened(seeds, {name: secrets[name] for name in secrets if name not in seeds})

    def _place_of(self, dealer: str) -> int:
        """Return which secret is opened: a survivor's seed of the level, else the key."""
        return self._place if dealer in self._survivors else 0


def remove(
    total: Masked,
    attempt: Attempt,
    members: Mapping[str, Member],
    found: Opened,
    tolerance: Tolerance,
    components: Collection[Component],
) -> None:
    """Remove from the sum of the survivors' uploads, in place, all that ``found`` hides in it.

    ``components``: those that each hospital of the cohort added. The components of the survivors'
    level and below stay.
    """
    level = tolerance.level(len(found.seeds))
    streams = []
    for name, seed in found.seeds.items():
        own = members[name].fingerprint
        streams.append((self_mask(seed_after(seed, tolerance.last - level), attempt), False))
        shared = {
            members[other].fingerprint: exchange(
                X25519PrivateKey.from_private_bytes(key), members[name].deal.key
            )
            for other, key in found.keys.items()
        }
        streams += [(pad, not added) for pad, added in pads(own, shared, attempt)]
    add(total, streams)
    seeded = (
        (seed_after(seed, component.level - 1 - level), component)
        for seed in found.seeds.values()
        for component in components
        if component.level > level
    )
    add_noise(total, attempt, seeded, sign=-1)
