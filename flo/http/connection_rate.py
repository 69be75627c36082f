"""Rate limit on new connections per address: a TLS handshake costs more than most calls.

Before the handshake only the client's address is known. Hospitals behind one address share its
rate. Open connections are not delayed.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable

_LONGEST_WAIT = 3.0  # seconds
_MOST_ADDRESSES = 10_000


class ConnectionRate:
    """Limiter: each address may open ``at_once`` connections at once, then ``a_second`` a second.

    Uses the generic cell rate algorithm (ITU-T I.371). Used by one thread.
    """

    def __init__(
        self,
        at_once: int = 128,
        a_second: float = 20.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._at_once, self._a_second, self._clock = at_once, a_second, clock
        self._next: dict[str, float] = {}  # network -> when its full burst is available again

    def wait(self, address: str) -> float | None:
        """Return the seconds until this connection may begin; None if too many wait already."""
        now, whose = self._clock(), _network(address)
        again = max(self._next.get(whose, 0.0), now) + 1 / self._a_second
        delay = max(0.0, again - now - self._at_once / self._a_second)
        if delay > _LONGEST_WAIT:
            return None
        if len(self._next) >= _MOST_ADDRESSES:
            self._next = {known: end for known, end in self._next.items() if end > now}
        self._next[whose] = again
        return delay


def _network(address: str) -> str:
    """Return an IPv4 address, or the /64 of an IPv6 address: one machine may own all of it."""
    read = ipaddress.ip_address(address.partition("%")[0])
    read = getattr(read, "ipv4_mapped", None) or read  # an IPv4 client of a listener bound to ::
    if isinstance(read, ipaddress.IPv4Address):
        return str(read)
    return str(ipaddress.ip_network((read, 64), strict=False))
