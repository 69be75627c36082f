"""How fast one address may begin connections: a TLS handshake costs more than most calls.

The caller is known only after the handshake; before it, only the address is. Hospitals behind one
address share its pace. Open connections do not wait.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable

_AT_ONCE, _A_SECOND, _LONGEST_WAIT = 128, 20.0, 3.0
_MOST_ADDRESSES = 10_000


class ConnectionRate:
    """``_AT_ONCE`` connections of an address begin at once, then ``_A_SECOND`` (the generic cell
    rate algorithm, ITU-T I.371). Used by one thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next: dict[str, float] = {}  # when the address has its whole share again

    def wait(self, address: str) -> float | None:
        """Seconds until this connection may begin, or None: too many wait already."""
        now, whose = self._clock(), _network(address)
        again = max(self._next.get(whose, 0.0), now) + 1 / _A_SECOND
        delay = max(0.0, again - now - _AT_ONCE / _A_SECOND)
        if delay > _LONGEST_WAIT:
            return None
        if len(self._next) >= _MOST_ADDRESSES:
            self._next = {known: end for known, end in self._next.items() if end > now}
        self._next[whose] = again
        return delay


def _network(address: str) -> str:
    """An IPv4 address as it is; of an IPv6 address its /64, which one machine may have whole."""
    read = ipaddress.ip_address(address.partition("%")[0])
    read = getattr(read, "ipv4_mapped", None) or read  # IPv4 at a listener bound to ::
    if isinstance(read, ipaddress.IPv4Address):
        return str(read)
    return str(ipaddress.ip_network((read, 64), strict=False))
