"""A site with one made-up published model that answers, for ``flo bench serve``."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, RSAKey
from safetensors.numpy import save

from flo.arrays import Floats
from flo.clients.home.site_config import make_config
from flo.clients.home.site_home import SiteHome
from flo.clients.prediction import versions
from flo.clients.serving.example import example_request
from flo.clients.sources.mapping import StudyMapping
from flo.documents import canonical
from flo.keys.identity import Identity
from flo.privacy.accounting.plan import Plan
from flo.privacy.releases import model_noise
from flo.privacy.report.wording import trust
from flo.published.golden import Golden
from flo.published.model_card import ModelCard
from flo.published.model_states import ModelVersion
from flo.storage.files import make_private_directory, write_private, write_public
from flo.study.document import Study, from_document
from flo.study.features import input_names
from flo.study.loading import load
from flo.study.models import named, parameter_count

_HEART = Path(__file__).parent.parent / "examples" / "heart" / "study.toml"
_CODES = "https://bench.example/codes"
_IMAGE = {"kind": "image", "name": "scan", "height": 28, "width": 28, "minimum": 0, "maximum": 255}
ISSUER = "https://ehr.example"


@dataclass(frozen=True)
class ServedSite:
    """``keys``: of the record system, by algorithm."""

    home: SiteHome
    study: Study
    keys: dict[str, RSAKey | ECKey]

    def tokens(self, url: str, algorithm: str, count: int) -> list[str]:
        """Return tokens for ``url``, valid for five minutes."""
        key, now = self.keys[algorithm], int(time.time())
        header = {"alg": algorithm, "kid": algorithm, "typ": "JWT"}
        times = {"iat": now, "exp": now + 300}
        return [
            jwt.encode(
                header,
                {"iss": ISSUER, "aud": url, "jti": str(uuid4()), **times},
                key,
                algorithms=[algorithm],
            )
            for _ in range(count)
        ]

    def hook(self) -> str:
        """Return a request of CDS Hooks with every column."""
        day = datetime.now().astimezone().date()
        mapping = StudyMapping.model_validate({"columns": _columns(self.study)})
        return json.dumps(example_request("patient-view", mapping, self.study.data, day))

    def record(self) -> str:
        """Return a plain request of one record."""
        cells: dict[str, Any] = {}
        for column in self.study.data.columns:
            if column.kind == "number":
                cells[column.name] = (column.minimum + column.maximum) / 2
            elif column.kind == "category":
                cells[column.name] = column.codes[0]
            elif column.kind == "image":
                cells[column.name] = [float(i % 256) for i in range(len(column.pixels))]
        return json.dumps({"record": cells})


def made(folder: Path, *, images: bool, port: int, workers: int) -> ServedSite:
    """Make a site whose model answers: logistic on the heart data's columns, or a CNN."""
    folder.mkdir(parents=True, exist_ok=True)
    coordinator, document = Identity.new(), load(_HEART).model_dump(mode="json")
    if images:
        document |= {"model": {"kind": "cnn"}, "gate": None}
        document["data"] |= {"columns": [_IMAGE], "records_per_patient": "one"}
        document["evaluation"] |= {"subgroups": []}
        document["mechanism"] |= {"algorithm": "fedavgm"}
    prints = {one["id"]: Identity.new().fingerprint for one in document["hospitals"]}
    study = from_document(document).with_fingerprints(prints)
    data = folder / "patients.csv"
    data.write_text("patient_id\n")
    config = make_config(
        "north", file=data, id_column="patient_id", epsilon=0.9, declared_size=100, hold_out=0.3
    )
    home = SiteHome.create(folder / "site", config)
    info = {"schema_version": 1, "url": "https://127.0.0.1:1", "public": coordinator.public.hex()}
    write_public(home.coordinator_path, canonical.encode(info))
    _publish(home, study, coordinator)
    keys: dict[str, RSAKey | ECKey] = {
        "RS384": RSAKey.generate_key(2048, {"kid": "RS384"}),
        "ES384": ECKey.generate_key("P-384", {"kid": "ES384"}),
    }
    _configure(home.directory, study, KeySet(list(keys.values())), port, workers)
    return ServedSite(home, study, keys)


def _publish(home: SiteHome, study: Study, coordinator: Identity) -> None:
    """Store a made-up model with a signed card, and put it into use."""
    weights = np.random.default_rng(1).normal(size=parameter_count(study))
    tensors = save(named(study, weights))
    logistic = study.model.kind == "logistic"
    width = len(input_names(study.data))
    noise: dict[str, Any] = {"noise": None, "average": None, "average_deviation": None}
    if logistic:
        covariance: Floats = 1e-4 * np.eye(width + 1)
        noise["noise"] = model_noise.packed(covariance).tolist()
        noise |= {"average": [0.0] * width, "average_deviation": 0.01}
    calibration = {"log_odds": [-4.0, 0.0, 4.0], "risk": [0.1, 0.3, 0.7], "level": 0.9}
    calibration |= {"low": [0.05, 0.25, 0.6], "high": [0.2, 0.4, 0.8]}
    card = {
        **{"schema_version": 4, "study": study.canonical_bytes.decode(), "run": "run-1"},
        **{"study_signature": coordinator.sign("study", study.canonical_bytes)},
        **{"made": "2026-01-01T00:00:00+00:00", "file": canonical.digest(tensors), "rounds": 1},
        **{"epsilon": Plan.of(study).epsilon, "delta": study.mechanism.delta},
        "trust_model": trust(study),
        "evaluation": {"auc": 0.8, "low": 0.7, "high": 0.9, "level": 0.95},
        **{"subgroups": {}, "calibration": calibration, "report": None, "without_extract": []},
        **{"coordinator": coordinator.public.hex(), **noise},
    }
    signed = ModelCard.model_validate(card)
    golden = Golden.of(study, weights, signed.calibration)
    signed = signed.model_copy(update={"golden": golden}).signed(coordinator)
    version = ModelVersion(version=study.version, study=study.digest, card=signed.digest)
    folder = make_private_directory(versions.folder_of(home, version))
    write_public(folder / "bench.card.json", signed.to_bytes())
    write_public(folder / "bench.safetensors", tensors)
    before = versions.read(home)
    own = versions.called(before.own, study.name)
    versions.decide(home, before, own.put_into_use(version, versions.said(home, "a benchmark")))


def _configure(folder: Path, study: Study, keys: KeySet, port: int, workers: int) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now, host = datetime.now(UTC), x509.SubjectAlternativeName([x509.DNSName("localhost")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(host, critical=False)
        .sign(key, hashes.SHA256())
    )
    write_public(folder / "serve.pem", certificate.public_bytes(serialization.Encoding.PEM))
    pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    write_private(folder / "serve.key", key.private_bytes(*pem, serialization.NoEncryption()))
    write_public(folder / "keys.json", json.dumps(keys.as_dict(private=False)).encode())
    columns = "\n".join(
        f"{json.dumps(name)} = {{ field = {json.dumps(one['field'])} }}"
        for name, one in _columns(study).items()
    )
    text = f"""schema_version = 1
port = {port}
url = "https://localhost:{port}"
certificate = "serve.pem"
key = "serve.key"
workers = {workers}
[[callers]]
name = "ehr"
issuer = "{ISSUER}"
keys = "keys.json"
[models.{study.name}]
[models.{study.name}.columns]
{columns}
"""
    write_private(folder / "serve.toml", text.encode())


def _columns(study: Study) -> dict[str, dict[str, Any]]:
    """Return a mapping to FHIR: an observation for each column; none of an image."""
    return {
        one.name: {"field": f"observation:{_CODES}|{one.name}"}
        for one in study.data.columns
        if one.kind != "image"
    }
