"""An authority that the consortium brings: what is good enough, and that nothing beside it counts.

Its certificate may be an intermediate one. Certificates that its root or a sister authority issued
open nothing, because it is the anchor of trust itself.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from flo.clients.connection.coordinator_api import CoordinatorApi, client_context
from flo.clients.connection.enrolment import connect, renew_when_due
from flo.errors import TrustError, UsageError
from flo.keys.identity import Identity
from flo.keys.keystore import LocalKeyStore
from flo.server.home.coordinator_home import CoordinatorConfig, CoordinatorHome
from flo.server.keys.authority import Authority
from flo.server.maintenance.invitations import invite
from tests.commands import flo
from tests.ports import free_ports
from tests.server.real_coordinator import RealCoordinator, served

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True)
class Brought:
    """A CA as its owner hands it over: certificate and key."""

    certificate: x509.Certificate
    key: Key
    above: tuple[Brought, ...] = ()

    @property
    def file(self) -> bytes:
        """An intermediate authority comes with those above it."""
        return b"".join(brought.pem for brought in (self, *self.above))

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def key_pem(self, passphrase: bytes | None = None) -> bytes:
        sealed = serialization.BestAvailableEncryption(passphrase) if passphrase else None
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            sealed or serialization.NoEncryption(),
        )


@cache
def new_key(kind: str) -> Key:
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if kind.startswith("rsa"):
        return rsa.generate_private_key(65537, int(kind.removeprefix("rsa")))
    curves: dict[str, ec.EllipticCurve] = {
        "p192": ec.SECP192R1(),
        "p224": ec.SECP224R1(),
        "p256": ec.SECP256R1(),
        "p384": ec.SECP384R1(),
    }
    return ec.generate_private_key(curves[kind])


def certified(
    name: str = "Consortium",
    kind: str = "p256",
    *,
    issuer: Brought | None = None,
    begins: int = -400,
    days: int = 3650,
    is_ca: bool | None = True,
    signs: bool | None = True,
    names_its_key: bool = True,
) -> Brought:
    """A CA with a key of this kind, of its own root or of ``issuer``. None: no such extension."""
    key, now = new_key(kind), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=begins))
        .not_valid_after(now + timedelta(days=days))
    )
    if is_ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(is_ca, None), critical=True)
    if signs is not None:
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "crl_sign", "encipher_only", "decipher_only"), False
        )  # fmt: skip
        builder = builder.add_extension(
            x509.KeyUsage(digital_signature=True, key_cert_sign=signs, **usage), critical=True
        )
    if names_its_key:
        found = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        builder = builder.add_extension(found, critical=False)
    digest = None if kind == "ed25519" and issuer is None else hashes.SHA384()
    above = (issuer, *issuer.above) if issuer else ()
    return Brought(builder.sign(issuer.key if issuer else key, digest), key, above)


def home_with(folder: Path, certificate: bytes, key: bytes) -> CoordinatorHome:
    port, private_port = free_ports(2)
    config = CoordinatorConfig(port=port, private_port=private_port)
    return CoordinatorHome.create(folder, config, (certificate, key))


# -- what is good enough ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["p256", "p384", "rsa3072"])
def test_a_good_authority_is_adopted_and_issues(tmp_path: Path, kind: str) -> None:
    brought = certified(kind=kind)
    home = home_with(tmp_path / "home", brought.pem, brought.key_pem())
    authority = home.open_authority()
    assert authority.certificate == brought.certificate
    pem, _ = authority.issue_client("north", "site", Identity.new().key.public_key())
    x509.load_pem_x509_certificate(pem).verify_directly_issued_by(brought.certificate)
    server = x509.load_pem_x509_certificate(home.certificate_path.read_bytes())
    server.verify_directly_issued_by(brought.certificate)
    kept = (home.directory / "ca.key").read_bytes()
    assert brought.key_pem().splitlines()[1] not in kept
    assert (home.directory / "ca.key").stat().st_mode & 0o777 == 0o600


GOOD = certified()
BELOW = certified("Below", "rsa3072", issuer=GOOD)
REFUSED: list[tuple[str, Any, Any, str]] = [
    ("no basic constraints", certified(is_ca=None), None, "lacks basic constraints"),
    ("not a CA", certified(is_ca=False), None, "may not sign other certificates"),
    ("no key usage", certified(signs=None), None, "lacks basic constraints, key usage"),
    ("may not sign", certified(signs=False), None, "may not sign other certificates"),
    ("no key identifier", certified(names_its_key=False), None, "subject key identifier"),
    ("expired", certified(days=-1), None, "ends on"),
    ("ends before a hospital's would", certified(days=364), None, "for 365 more days"),
    ("not valid yet", certified(begins=30), None, "not valid before"),
    ("without its root", BELOW, None, "do not follow it"),
    ("another root", BELOW.pem + certified("B", "p384").pem, BELOW.key_pem(), "do not follow it"),
    ("another key", certified(), certified(kind="p384").key_pem(), "not the key of its certif"),
    ("192 bits", certified(kind="p192"), None, "EC of 256 bits or RSA of 3072"),
    ("224 bits", certified(kind="p224"), None, "EC of 256 bits or RSA of 3072"),
    ("RSA of 2048", certified(kind="rsa2048"), None, "EC of 256 bits or RSA of 3072"),
    ("another kind", certified(kind="ed25519"), None, "EC of 256 bits or RSA of 3072"),
    ("under a passphrase", GOOD, GOOD.key_pem(b"correct horse"), "not an unencrypted PEM"),
    ("no certificate", b"", GOOD.key_pem(), "cannot be read"),
    ("its key as certificate", GOOD.key_pem(), GOOD.key_pem(), "cannot be read"),
    ("its certificate as key", GOOD, GOOD.pem, "not an unencrypted PEM"),
    ("no key", GOOD, b"", "not an unencrypted PEM"),
]


@pytest.mark.parametrize(
    ("what", "certificate", "key", "words"), REFUSED, ids=[row[0] for row in REFUSED]
)
def test_what_is_not_good_enough_is_refused_and_nothing_is_made(
    tmp_path: Path, what: str, certificate: Any, key: bytes | None, words: str
) -> None:
    pem = certificate if isinstance(certificate, bytes) else certificate.pem
    with pytest.raises(UsageError, match=words):
        home_with(tmp_path / "home", pem, certificate.key_pem() if key is None else key)
    assert {path.name for path in (tmp_path / "home").iterdir()} <= {"keystore.key"}
    home_with(tmp_path / "home", GOOD.pem, GOOD.key_pem())


@pytest.mark.parametrize("given", ["--ca-certificate", "--ca-key"])
def test_certificate_and_key_come_together(tmp_path: Path, given: str) -> None:
    (tmp_path / "ca.pem").write_bytes(GOOD.pem)
    done = flo("coordinator", "init", "--home", tmp_path / "home", given, tmp_path / "ca.pem")
    assert (done.returncode, "needed together" in done.stderr) == (2, True)
    assert not (tmp_path / "home").exists()


# -- end to end ------------------------------------------------------------------------------------

ROOT = certified("Root", "p384")
INTERMEDIATE = certified("Hospitals", "rsa3072", issuer=ROOT)
SISTER, NAMESAKE = certified("Sister", issuer=ROOT), certified("Hospitals")


class UnderBrought(RealCoordinator):
    """Its clients trust the brought certificate itself, which may have a root that they lack."""

    def anonymous(self) -> ssl.SSLContext:
        context = super().anonymous()
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context


@contextmanager
def serving(folder: Path, brought: Brought) -> Iterator[RealCoordinator]:
    """A coordinator that was made on the command line with this authority."""
    (folder / "ca.pem").write_bytes(brought.file)
    (folder / "ca.key").write_bytes(brought.key_pem())
    port, private_port = free_ports(2)
    done = flo(
        *("coordinator", "init", "--home", folder / "home", "--port", str(port)),
        *("--private-port", str(private_port)),
        *("--ca-certificate", folder / "ca.pem", "--ca-key", folder / "ca.key"),
    )
    assert done.returncode == 0, done.stderr
    with served(UnderBrought(CoordinatorHome.open(folder / "home"))) as real:
        yield real


@pytest.mark.processes
@pytest.mark.parametrize("brought", [ROOT, INTERMEDIATE], ids=["a root", "an intermediate one"])
def test_a_hospital_enrols_renews_and_is_served_under_a_brought_authority(
    tmp_path: Path, brought: Brought
) -> None:
    with serving(tmp_path, brought) as coordinator:
        north = coordinator.enrol(tmp_path / "north", "north")
        pem = (north.directory / "certificate.pem").read_bytes()
        x509.load_pem_x509_certificate(pem).verify_directly_issued_by(brought.certificate)
        with connect(north) as api:
            assert api.call("studies", {}) == []
            assert renew_when_due(north, api, days=10_000)
        with connect(north) as api:
            assert api.call("studies", {}) == []
        assert (north.directory / "certificate.pem").read_bytes() != pem


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCoordinator]:
    with serving(tmp_path_factory.mktemp("intermediate"), INTERMEDIATE) as real:
        yield real


@pytest.mark.processes
def test_a_person_is_served_under_an_intermediate_authority(
    coordinator: RealCoordinator, tmp_path: Path
) -> None:
    home, path = coordinator.home.directory, tmp_path / "v.json"
    assert flo("coordinator", "token", "Ada", "--home", home, "--out", path).returncode == 0
    done = flo("study", "list", "--home", path)
    assert done.returncode == 0, done.stderr


def status_of(coordinator: RealCoordinator, certificate: bytes, key: Identity) -> int:
    """What a hospital hears that shows this certificate and was never enrolled."""
    context = coordinator.shows(certificate, key.pem())
    return coordinator.outside("POST", "/v1/site/studies", context, body=b"{}").status


@pytest.mark.processes
@pytest.mark.parametrize("issuer", [ROOT, SISTER, NAMESAKE], ids=["root", "sister", "namesake"])
def test_what_another_authority_issued_opens_nothing(
    coordinator: RealCoordinator, tmp_path: Path, issuer: Brought
) -> None:
    key = Identity.new()
    public = key.key.public_key()
    good, _ = coordinator.home.open_authority().issue_client("north", "site", public)
    assert status_of(coordinator, good, key) == 403  # let in, and then not enrolled
    other = Authority.adopt(tmp_path, LocalKeyStore(tmp_path / "k"), issuer.file, issuer.key_pem())
    pem, _ = other.issue_client("north", "site", public)
    for chain in (pem, pem + issuer.pem, pem + issuer.pem + ROOT.pem, pem + INTERMEDIATE.pem):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            status_of(coordinator, chain, key)


@pytest.mark.processes
@pytest.mark.parametrize("issuer", [SISTER, NAMESAKE], ids=["sister", "namesake"])
def test_a_site_trusts_no_coordinator_of_another_authority(
    coordinator: RealCoordinator, issuer: Brought
) -> None:
    invitation = json.loads(invite(coordinator.home, "north"))
    url, certificate, key = invitation["url"], invitation["certificate"], invitation["key"]
    for ca, words in ((invitation["ca"], "refused studies"), (issuer.pem.decode(), "another auth")):
        context = client_context(ca, certificate.encode(), key.encode())
        with CoordinatorApi(url, context) as api, pytest.raises(TrustError, match=words):
            api.call("studies", {})
