"""Choice of the proxy for a connection, from ``HTTPS_PROXY`` and ``NO_PROXY`` as usual.

Connections to this machine itself use no proxy: a machine-wide proxy is for the outside world.
"""

from __future__ import annotations

import ipaddress
import os
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from flo.errors import UsageError

_NAMES = ("NO_PROXY", "no_proxy")


def proxy_for(url: str) -> str | None:
    """Return the address of the proxy for connections to ``url``; None for a direct connection.

    Raises:
        UsageError: the variable names a kind of proxy that FLO does not support, or no valid host
        and port.
    """
    host, named = urlsplit(url).hostname, getproxies_environment().get("https")
    if not host or not named or is_here(host) or proxy_bypass(host):
        return None
    proxy = named if "://" in named else f"http://{named}"
    scheme = urlsplit(proxy).scheme.lower()
    if scheme not in ("http", "https"):
        raise UsageError(
            f"HTTPS_PROXY names a {scheme} proxy; FLO supports http and https proxies",
            hint="name one of these, or exclude this host with NO_PROXY",
        )
    try:
        place_of(proxy)
    except ValueError as error:
        raise UsageError(
            f"HTTPS_PROXY has no valid host and port: {error}",
            hint="write it as http://HOST:PORT, with special characters of a password as %XX",
        ) from None  # the original error may quote a password
    return proxy


def place_of(address: str) -> tuple[str, int]:
    """Return host and port of an address. Raises ValueError that does not quote the address."""
    parts = urlsplit(address)
    try:
        port = parts.port or (80 if parts.scheme.lower() == "http" else 443)
    except ValueError:
        raise ValueError("its port is not a number up to 65535") from None
    if not parts.hostname:
        raise ValueError("it has no host")
    return parts.hostname, port


def shown(proxy: str) -> str:
    """Return a proxy's host and port, without the password that its address may hold."""
    host, port = place_of(proxy)
    return f"{host}:{port}"


def is_here(host: str) -> bool:
    """Return whether ``host`` is this machine's own loopback."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def keep_direct(*hosts: str) -> None:
    """Let Flower's clients connect to these hosts and to loopback without a proxy.

    This holds for this process and those that it starts. Flower's clients fail at once if
    ``ALL_PROXY`` names a kind that they cannot use, so it is removed; FLO itself reads
    ``HTTPS_PROXY`` only.
    """
    for name in ("ALL_PROXY", "all_proxy"):
        os.environ.pop(name, None)
    named = os.environ.get(_NAMES[0]) or os.environ.get(_NAMES[1]) or ""
    wanted = dict.fromkeys([*filter(None, named.split(",")), "127.0.0.1", "localhost", *hosts])
    for name in _NAMES:
        os.environ[name] = ",".join(wanted)
