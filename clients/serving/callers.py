"""Which record system sent a request: a signed token of its own for each one (CDS Hooks 2.0,
"Trusting CDS Clients").

    1. the request has one ``Authorization: Bearer`` header with a token of JWS compact form;
    2. its header names an algorithm of the list and the id of a key; addresses of keys (``jku``)
       are ignored, so that no token makes this process fetch anything;
    3. its issuer is a caller of the allow-list, and one of that caller's keys signed it;
    4. its audience is the very address that is asked;
    5. it is valid now, and for at most five minutes;
    6. its ``jti`` was not used before (``flo.clients.serving.replays``).

The rules are here, without IO; keys are read from files by ``read_keys``.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jiter
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, KeySet, RSAKey
from joserfc.jws import JWSRegistry

from flo.clients.serving.settings import Caller
from flo.documents import canonical
from flo.errors import MessageError, TrustError, UsageError

ALGORITHMS = ("RS384", "ES384")
LONGEST_SECONDS = 300  # from ``iat`` to ``exp``
SKEW_SECONDS = 30  # by which two clocks may differ
_MAX_TOKEN, _MAX_KEYS_BYTES, _MOST_KEYS, _SMALLEST_RSA = 8192, 1 << 18, 50, 2048
_LONGEST_JTI, _LATEST = 200, 1 << 40  # characters; seconds since 1970
_REGISTRY = JWSRegistry(algorithms=list(ALGORITHMS))
Key = RSAKey | ECKey


class RefusedCaller(Exception):
    """The request is not of an allowed caller. The text is for the log, not for the caller."""


@dataclass(frozen=True)
class AllowedCaller:
    """``keys``: key id -> public key."""

    name: str
    keys: Mapping[str, Key]


@dataclass(frozen=True)
class Asked:
    """Who asked. ``token``: its ``jti``. ``issued``, ``expires``: seconds since 1970."""

    caller: str
    token: str
    issued: float
    expires: int


class AllowList:
    """The callers of a site, by issuer."""

    def __init__(self, callers: Mapping[str, AllowedCaller]) -> None:
        self._callers = callers

    def check(self, headers: list[tuple[bytes, bytes]], url: str, now: float) -> Asked:
        """Return who asked. ``url``: the address that is asked; ``now``: seconds since 1970.

        Raises RefusedCaller.
        """
        token = _bearer(headers)  # 1
        try:
            read = jws.extract_compact(token)
        except (JoseError, ValueError) as error:
            raise RefusedCaller("the token is not in JWS compact form") from error
        header = read.headers()
        if header.get("alg") not in ALGORITHMS or "crit" in header:  # 2
            raise RefusedCaller(f"the token's algorithm is none of {', '.join(ALGORITHMS)}")
        claims = _claims(read.payload)
        caller = self._callers.get(str(claims.get("iss")))  # 3
        if caller is None:
            raise RefusedCaller("the token's issuer is not on the allow-list")
        key = caller.keys.get(str(header.get("kid")))
        if key is None or not _fits(key, str(header["alg"])):
            raise RefusedCaller(f"{caller.name} has no such key for this algorithm")
        try:
            signed = jws.deserialize_compact(token, key, registry=_REGISTRY)
        except (JoseError, ValueError) as error:
            raise RefusedCaller(f"no key of {caller.name} signed the token") from error
        assert signed.payload == read.payload
        audience = claims.get("aud")
        if audience not in (url, [url]):  # 4
            raise RefusedCaller(f"{caller.name}'s token is for another address")
        return _in_time(claims, caller.name, now)


def _bearer(headers: list[tuple[bytes, bytes]]) -> bytes:
    found = [value for name, value in headers if name == b"authorization"]
    if len(found) != 1:
        raise RefusedCaller("the request has no token" if not found else "it has several tokens")
    scheme, _, token = found[0].partition(b" ")
    if scheme.lower() != b"bearer" or not token or len(token) > _MAX_TOKEN:
        raise RefusedCaller("the token is missing, or too long")
    return token.strip()


def _claims(payload: bytes) -> dict[str, Any]:
    try:
        found = jiter.from_json(payload, allow_inf_nan=False, catch_duplicate_keys=True)
    except ValueError as error:
        raise RefusedCaller("the token's claims are not valid JSON") from error
    if not isinstance(found, dict):
        raise RefusedCaller("the token has no claims")
    return found


def _fits(key: Key, algorithm: str) -> bool:
    return isinstance(key, RSAKey if algorithm == "RS384" else ECKey)


def _in_time(claims: dict[str, Any], caller: str, now: float) -> Asked:  # 5
    issued: Any = claims.get("iat")
    expires: Any = claims.get("exp")
    token = claims.get("jti")
    if not _is_time(issued) or not _is_time(expires):
        raise RefusedCaller(f"{caller}'s token does not say from when to when it is valid")
    if not isinstance(token, str) or not 0 < len(token) <= _LONGEST_JTI:
        raise RefusedCaller(f"{caller}'s token has no jti of at most {_LONGEST_JTI} characters")
    if not 0 < expires - issued <= LONGEST_SECONDS:
        raise RefusedCaller(f"{caller}'s token is valid for longer than {LONGEST_SECONDS} seconds")
    if expires <= now:
        raise RefusedCaller(f"{caller}'s token has expired")
    not_before = claims.get("nbf", issued)
    if not _is_time(not_before):
        raise RefusedCaller(f"{caller}'s token has no valid nbf")
    if max(issued, not_before) > now + SKEW_SECONDS:
        raise RefusedCaller(f"{caller}'s token is not valid yet: is its clock right?")
    return Asked(caller, token, issued, int(expires) + 1)


def _is_time(value: Any) -> bool:
    """Return whether a claim is a number of seconds since 1970."""
    return type(value) in (int, float) and 0 <= value <= _LATEST


def read_keys(callers: tuple[Caller, ...], folder: Path) -> AllowList:
    """Read the public keys of all callers. Raises UsageError or TrustError naming the caller."""
    found = {}
    for caller in callers:
        path = folder / caller.keys
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UsageError(
                f"the keys of caller {caller.name} cannot be read: {error}",
                hint=f"store its public keys, a JWK set, in {path}",
            ) from error
        found[caller.issuer] = AllowedCaller(caller.name, _key_set(data, caller.name))
    return AllowList(found)


def _key_set(data: bytes, caller: str) -> dict[str, Key]:
    hint = (
        "ask its operator for the public part of its JWK set: RSA keys of 2048 bits or more, "
        "or EC keys on P-384, each with a kid"
    )
    try:
        document = canonical.decode(data, limit=_MAX_KEYS_BYTES, what=f"keys of {caller}")
        with warnings.catch_warnings():  # of short keys, which are left out below
            warnings.simplefilter("ignore")
            keys = KeySet.import_key_set(document).keys
    except (JoseError, MessageError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise TrustError(
            f"the keys of caller {caller} are no JWK set: {error}", hint=hint
        ) from error
    found = dict[str, Key]()
    for key in keys[:_MOST_KEYS]:
        if isinstance(key, RSAKey | ECKey) and key.is_private:
            raise TrustError(f"the keys of caller {caller} contain a private key", hint=hint)
        if not isinstance(key, RSAKey | ECKey) or not _is_strong(key) or not key.kid:
            continue
        if key.kid in found:
            raise TrustError(f"two keys of caller {caller} have the kid {key.kid!r}", hint=hint)
        found[key.kid] = key
    if not found:
        raise TrustError(f"caller {caller} has no key for {' or '.join(ALGORITHMS)}", hint=hint)
    return found


def _is_strong(key: Key) -> bool:
    public: rsa.RSAPublicKey | ec.EllipticCurvePublicKey = key.public_key
    if isinstance(public, rsa.RSAPublicKey):
        return public.key_size >= _SMALLEST_RSA
    return public.curve.name == "secp384r1"
