"""``serve.toml``: where models answer, who may ask, and which models they are.

The file names no secret: the private key of the certificate is in a file of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from flo.clients.sources.mapping import MappedColumn
from flo.documents.document import Document, read_settings
from flo.errors import UsageError
from flo.study.names import ColumnName, Words
from flo.study.terms import Identifier

FILE = "serve.toml"
Address = Annotated[str, StringConstraints(min_length=1, max_length=253)]
# Hooks of CDS Hooks whose context has a patient's id.
Hook = Literal[
    "patient-view", "encounter-start", "encounter-discharge", "order-select", "order-sign"
]
Url = Annotated[
    str,
    StringConstraints(pattern=r"^https://[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?(/[A-Za-z0-9._~-]+)*$"),
]
ModelName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{0,199}$")]
_Port = Annotated[int, Field(ge=1, le=65_535)]


def _issuer(text: str) -> str:
    if not text.isprintable() or not text.isascii() or " " in text:
        raise ValueError("an issuer is a URI, without spaces and control characters")
    return text


class Caller(Document):
    """A record system that may ask. ``issuer``: its tokens' ``iss``, letter by letter.

    ``keys``: file with its public keys, as a JWK set, relative to the site's folder.
    """

    name: Identifier
    issuer: Annotated[str, StringConstraints(min_length=1, max_length=300), AfterValidator(_issuer)]
    keys: Path


class ServedModel(Document):
    """A model that answers. ``outcome``: what the risk is of, on cards, such as "death in
    hospital"; the study's label if it is not given.

    ``columns``: the study's columns in the record system's FHIR, where mapping.toml, which training
    used, is of another source.
    """

    hook: Hook = "patient-view"
    outcome: Annotated[Words, StringConstraints(max_length=60)] | None = None
    columns: Annotated[dict[ColumnName, MappedColumn], Field(max_length=5000)] = Field(
        default_factory=dict
    )


class ServeConfig(Document):
    """``serve.toml``.

    ``url``: how record systems reach this port, without a path at its end; their tokens name it as
    audience. ``certificate``, ``key``: PEM files of the server, relative to the site's folder; they
    are read again when they change. ``workers``: processes that score. ``metrics_port``: on
    127.0.0.1, for Prometheus; none if it is not given.
    """

    schema_version: Literal[1] = 1
    address: Address = "127.0.0.1"
    port: _Port = 8443
    url: Url
    certificate: Path
    key: Path
    workers: Annotated[int, Field(ge=1, le=32)] = 2
    metrics_port: _Port | None = None
    callers: Annotated[tuple[Caller, ...], Field(min_length=1, max_length=100)]
    models: Annotated[dict[ModelName, ServedModel], Field(min_length=1, max_length=100)]

    @model_validator(mode="after")
    def _each_once(self) -> ServeConfig:
        for what in ("name", "issuer"):
            found = [getattr(caller, what) for caller in self.callers]
            if len(set(found)) != len(found):
                raise ValueError(f"two callers have the same {what}")
        return self


def read_serve_config(folder: Path) -> ServeConfig:
    """Read ``serve.toml`` of a site's folder. Raises UsageError naming what is wrong."""
    path = folder / FILE
    if not path.exists():
        raise UsageError(
            f"{path} does not exist: it says where models answer, and who may ask",
            hint="flo model serve --draft writes one to complete",
        )
    return read_settings(ServeConfig, path)


DRAFT = """\
# Where this hospital's models answer, and who may ask (docs/serving.md).
schema_version = 1
address = "0.0.0.0"          # on which it listens
port = 8443
url = "https://{host}:8443"  # how the record system reaches it; tokens name it as audience
certificate = "serve.pem"    # of this server, for the record system; PEM, in this folder
key = "serve.key"            # its private key; readable by this user only
workers = 2                  # processes that score

# Record systems that may ask. `issuer` is the `iss` of their tokens; `keys` their public keys, a
# JWK set that their operator hands over.
[[callers]]
name = "record-system"
issuer = "https://ehr.example"
keys = "record-system.jwks.json"
{models}"""
DRAFT_MODEL = """
[models.{name}]
hook = "patient-view"
# outcome = "death in hospital"   # what the risk is of, on cards; else the study's label
"""
