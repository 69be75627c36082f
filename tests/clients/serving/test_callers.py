"""A token of an allowed caller is accepted once, for the address that is asked; nothing else is."""

from __future__ import annotations

import base64
import hmac
import json
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from joserfc import jws
from joserfc.jwk import ECKey, KeySet, OctKey, RSAKey

from flo.clients.serving.callers import Asked, RefusedCaller, read_keys
from flo.clients.serving.replays import ReplayMemory
from flo.clients.serving.settings import Caller
from flo.errors import TrustError, UsageError
from tests.clients.serving.served_site import ISSUER, record_system_keys, token

URL = "https://cds.example/cds-services/tiny"
NOW = int(time.time())
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that it is short is the point
    SHORT = RSAKey.generate_key(1024, {"kid": "r1"})
OTHER = RSAKey.generate_key(2048, {"kid": "r1"})
CALLER = (Caller(name="ehr", issuer=ISSUER, keys=Path("ehr.jwks.json")),)


@pytest.fixture(autouse=True)
def _at_this_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.clients.serving.served_site.time.time", lambda: NOW)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, *record_system_keys().values())
    return tmp_path


def write(folder: Path, *keys: Any, private: bool = False) -> None:
    document = KeySet(list(keys)).as_dict(private=private)
    (folder / "ehr.jwks.json").write_text(json.dumps(document))


def check(folder: Path, *headers: tuple[bytes, bytes], now: float = NOW) -> Asked:
    return read_keys(CALLER, folder).check(list(headers), URL, now)


def shown(text: str | bytes) -> tuple[bytes, bytes]:
    return b"authorization", b"Bearer " + (text.encode() if isinstance(text, str) else text)


def encoded(part: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


@pytest.mark.parametrize("key", ["r1", "e1"])
def test_both_algorithms_of_the_specification_are_accepted(folder: Path, key: str) -> None:
    asked = check(folder, shown(token(URL, key=key, jti="once")))
    assert (asked.caller, asked.token) == ("ehr", "once")
    assert asked.expires == NOW + 61
    assert check(folder, shown(token(URL, key=key, aud=[URL]))).caller == "ehr"


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"iss": "https://other.example"}, "issuer is not on the allow-list"),
        ({"iss": ISSUER + "/"}, "issuer is not on the allow-list"),
        ({"iss": None}, "issuer is not on the allow-list"),
        ({"iss": [ISSUER]}, "issuer is not on the allow-list"),
        ({"aud": "https://cds.example/cds-services/other"}, "for another address"),
        ({"aud": [URL, "https://other"]}, "for another address"),
        ({"aud": None}, "for another address"),
        ({"exp": NOW - 1, "iat": NOW - 60}, "has expired"),
        ({"exp": NOW + 301, "iat": NOW}, "for longer than 300 seconds"),
        ({"exp": NOW, "iat": NOW}, "for longer than 300 seconds"),
        ({"exp": None}, "from when to when"),
        ({"iat": None}, "from when to when"),
        ({"exp": str(NOW + 60)}, "from when to when"),
        ({"exp": True}, "from when to when"),
        ({"iat": NOW + 120, "exp": NOW + 150}, "not valid yet"),
        ({"nbf": NOW + 120}, "not valid yet"),
        ({"nbf": "x"}, "no valid nbf"),
        ({"jti": None}, "no jti"),
        ({"jti": ""}, "no jti"),
        ({"jti": 5}, "no jti"),
        ({"jti": "x" * 201}, "no jti"),
    ],
)
def test_a_token_with_other_claims_is_refused(
    folder: Path, claims: dict[str, Any], why: str
) -> None:
    with pytest.raises(RefusedCaller, match=why):
        check(folder, shown(token(URL, **claims)))


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ({"kid": "r2"}, "no such key"),
        ({"kid": None}, "no such key"),
        ({"kid": "e1"}, "no such key for this algorithm"),
        ({"crit": ["exp"], "exp": 1}, "algorithm"),
        ({"jku": "https://evil.example/keys"}, ""),
    ],
)
def test_a_token_with_another_header_is_refused(
    folder: Path, header: dict[str, Any], why: str
) -> None:
    claims = {"iss": ISSUER, "aud": URL, "iat": NOW, "exp": NOW + 60, "jti": "x"}
    told = {"alg": "RS384", "kid": "r1", "typ": "JWT"} | header
    told = {name: value for name, value in told.items() if value is not None}
    own = record_system_keys()["r1"]
    signed = f"{encoded(told)}.{encoded(claims)}"
    private: Any = own.private_key
    made = private.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA384())
    text = f"{signed}.{base64.urlsafe_b64encode(made).rstrip(b'=').decode()}"
    if why:
        with pytest.raises(RefusedCaller, match=why):
            check(folder, shown(text))
    else:
        assert check(folder, shown(text)).caller == "ehr", "the address of keys is ignored"


def test_forged_tokens_are_refused(folder: Path) -> None:
    claims = {"iss": ISSUER, "aud": URL, "iat": NOW, "exp": NOW + 60, "jti": "x"}
    payload = json.dumps(claims).encode()
    none = f"{encoded({'alg': 'none', 'kid': 'r1'})}.{encoded(claims)}."
    public = record_system_keys()["r1"].as_pem(private=False)
    signed = f"{encoded({'alg': 'HS384', 'kid': 'r1'})}.{encoded(claims)}"
    mac = hmac.digest(public, signed.encode(), "sha384")
    symmetric = f"{signed}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"
    weaker = jws.serialize_compact(
        {"alg": "RS256", "kid": "r1"}, payload, record_system_keys()["r1"], algorithms=["RS256"]
    )
    forged = jws.serialize_compact(
        {"alg": "RS384", "kid": "r1"}, payload, OTHER, algorithms=["RS384"]
    )
    head, body, signature = token(URL).split(".")
    changed = f"{head}.{encoded(claims | {'jti': 'y'})}.{signature}"
    twice = base64.urlsafe_b64encode(b'{"iss":"a","iss":"b"}').decode()
    doubled = f"{head}.{twice}.{signature}"
    for text in (none, symmetric, weaker, forged, changed, doubled, f"{head}.{body}.", "a.b.c"):
        with pytest.raises(RefusedCaller):
            check(folder, shown(text))


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"authorization", b"Bearer ")],
        [(b"authorization", b"Basic YTpi")],
        [(b"authorization", b"Bearer " + b"x" * 9000)],
        [(b"authorization", b"Bearer \xff\xfe")],
        [(b"x-authorization", b"Bearer x")],
    ],
)
def test_requests_without_one_token_are_refused(
    folder: Path, headers: list[tuple[bytes, bytes]]
) -> None:
    with pytest.raises(RefusedCaller):
        check(folder, *headers)
    good = shown(token(URL))
    with pytest.raises(RefusedCaller, match="several tokens"):
        check(folder, good, good)


def test_keys_that_are_weak_private_or_strange_are_refused(folder: Path) -> None:
    for keys, private, why in (
        ([SHORT], False, "has no key for RS384 or ES384"),
        ([ECKey.generate_key("P-256", {"kid": "e1"})], False, "has no key for"),
        ([OctKey.generate_key(256, {"kid": "o1"})], True, "has no key for"),
        ([RSAKey.generate_key(2048, {"kid": "r1"})], True, "contain a private key"),
        ([OTHER, record_system_keys()["r1"]], False, "have the kid"),
    ):
        write(folder, *keys, private=private)
        with pytest.raises(TrustError, match=why):
            read_keys(CALLER, folder)
    for text in ("", "{}", '{"keys": 5}', '{"keys": [{"kty": "x"}]}', '{"keys": [[]]}'):
        (folder / "ehr.jwks.json").write_text(text)
        with pytest.raises(TrustError, match=r"caller ehr|keys of ehr"):
            read_keys(CALLER, folder)
    (folder / "ehr.jwks.json").unlink()
    with pytest.raises(UsageError, match="keys of caller ehr cannot be read"):
        read_keys(CALLER, folder)


def test_a_token_is_accepted_once_also_after_the_server_was_started_again(tmp_path: Path) -> None:
    path = tmp_path / "used-tokens"
    memory = ReplayMemory(path)
    assert memory.is_new
    assert memory.use("ehr", "one", NOW + 60, NOW)
    assert not memory.use("ehr", "one", NOW + 60, NOW)
    assert memory.use("other", "one", NOW + 60, NOW), "callers choose their own"
    memory.close()
    with path.open("ab") as file:
        file.write(b"torn")
    again = ReplayMemory(path)
    assert not again.is_new
    assert not again.use("ehr", "one", NOW + 60, NOW)
    assert again.use("ehr", "two", NOW + 60, NOW)
    again.close()
    last = ReplayMemory(path)
    assert not last.use("ehr", "two", NOW + 60, NOW)
    last.close()


def test_what_has_expired_is_forgotten(tmp_path: Path) -> None:
    memory = ReplayMemory(tmp_path / "used-tokens")
    for number in range(100_000):
        memory.use("ehr", str(number), NOW - 1, NOW - 50)
    assert memory.use("ehr", "last", NOW + 60, NOW)
    memory.close()
    assert (tmp_path / "used-tokens").stat().st_size < 1000
