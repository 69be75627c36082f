"""Which proxy a connection takes: ``HTTPS_PROXY`` and ``NO_PROXY``, as elsewhere.

Never for this machine itself: who sets a proxy for a whole machine means the world outside.
"""

from __future__ import annotations

import ipaddress
import os
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from flo.errors import UsageError

_NAMES = ("NO_PROXY", "no_proxy")


def proxy_for(url: str) -> str | None:
    """The proxy's address for a connection to this one; None for a direct one.

    Raises:
        UsageError: the variable names a kind of proxy that FLO does not speak to.
    """
    host, named = urlsplit(url).hostname, getproxies_environment().get("https")
    if not host or not named or is_here(host) or proxy_bypass(host):
        return None
    proxy = named if "://" in named else f"http://{named}"
    scheme = urlsplit(proxy).scheme.lower()
    if scheme not in ("http", "https"):
        raise UsageError(
            f"HTTPS_PROXY names a {scheme} proxy, and FLO speaks to http and https ones",
            hint="name one of those, or leave this host out with NO_PROXY",
        )
    try:
        place_of(proxy)
    except ValueError as error:
        raise UsageError(
            f"HTTPS_PROXY names no host and port: {error}",
            hint="write it as http://HOST:PORT, with signs in a password as %XX",
        ) from None  # what it quotes may be a password's
    return proxy


def place_of(address: str) -> tuple[str, int]:
    """Host and port of an address. Raises ValueError if it has none; the text quotes nothing."""
    parts = urlsplit(address)
    try:
        port = parts.port or (80 if parts.scheme.lower() == "http" else 443)
    except ValueError:
        raise ValueError("its port is no number up to 65535") from None
    if not parts.hostname:
        raise ValueError("it has no host")
    return parts.hostname, port


def shown(proxy: str) -> str:
    """A proxy's host and port; its address may hold a password."""
    host, port = place_of(proxy)
    return f"{host}:{port}"


def is_here(host: str) -> bool:
    """Whether it names this machine's own loopback."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def keep_direct(*hosts: str) -> None:
    """Let Flower's clients, here and in processes started here, dial these hosts and loopback
    without a proxy. They fail at once where ``ALL_PROXY`` names a kind that they cannot use, so it
    goes; FLO itself looks at ``HTTPS_PROXY`` only.
    """
    for name in ("ALL_PROXY", "all_proxy"):
        os.environ.pop(name, None)
    named = os.environ.get(_NAMES[0]) or os.environ.get(_NAMES[1]) or ""
    wanted = dict.fromkeys([*filter(None, named.split(",")), "127.0.0.1", "localhost", *hosts])
    for name in _NAMES:
        os.environ[name] = ",".join(wanted)
