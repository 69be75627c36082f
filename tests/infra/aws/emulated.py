"""A moto server in this process, on a free port of loopback, and what a test needs in it."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import urllib.parse
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from flo.infra.aws import clients

REGION = "eu-central-1"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "emulated",
    "AWS_SECRET_ACCESS_KEY": "emulated",
    "AWS_REGION": REGION,
    "AWS_DEFAULT_REGION": REGION,
    "AWS_EC2_METADATA_DISABLED": "true",
}


@dataclass(frozen=True)
class Aws:
    """``url``: where it answers. ``environment``: what a process needs to find it there."""

    url: str
    environment: dict[str, str] = field(repr=False)

    def client(self, service: str) -> Any:
        return clients.client(service, REGION)

    def empty(self) -> None:
        """Forget all: an account has room for one stack of the whole template."""
        httpx.post(f"{self.url}/moto-api/reset", trust_env=False).raise_for_status()

    def client_of(self, service: str, key: str) -> Any:
        """A client of somebody else, whose access key has this id."""
        import boto3

        return boto3.client(
            service,
            region_name=REGION,
            endpoint_url=self.url,
            aws_access_key_id=key,
            aws_secret_access_key="emulated",
        )

    def new_key(self, **request: Any) -> str:
        """The ARN of a new KMS key."""
        return str(self.client("kms").create_key(**request)["KeyMetadata"]["Arn"])

    def new_bucket(self, name: str, *, lock: bool = False) -> str:
        s3 = self.client("s3")
        s3.create_bucket(
            Bucket=name,
            CreateBucketConfiguration={"LocationConstraint": REGION},
            ObjectLockEnabledForBucket=lock,
        )
        versioning = {"Status": "Enabled"}
        s3.put_bucket_versioning(Bucket=name, VersioningConfiguration=versioning)
        return name


def _update(resources: Any, template: dict[str, Any], parameters: Any = None) -> None:
    """An update of parameters: private endpoints come and go by their condition.

    moto looks at no condition in an update, and loses what refers to a changed parameter.
    """
    if parameters:
        resources.input_parameters = parameters
    resources.load_parameters()
    resources.load_conditions()
    for name, kept in template["Resources"].items():
        if kept["Type"] == "AWS::EC2::VPCEndpoint" and "Condition" in kept:
            there = resources.lazy_condition_map[kept["Condition"]]
            endpoint = resources._parsed_resources.pop(name, None)
            if endpoint is not None:
                endpoint.ec2_backend.delete_vpc_endpoints([endpoint.id])
            _ = there and resources[name]


def _mend_moto() -> None:
    """Where moto does something else than AWS, in this process only."""
    from moto.applicationautoscaling.models import ApplicationAutoscalingBackend as Scaling
    from moto.cloudformation.parsing import ResourceMap
    from moto.elbv2.models import ELBv2Backend
    from moto.kms.utils import ECDSAPrivateKey

    setattr(ResourceMap, "update", _update)  # noqa: B010

    def sign(key: Any, message: bytes, signing_algorithm: str) -> bytes:
        """A digest is signed as it is; moto takes every message for a raw one."""
        assert signing_algorithm == "ECDSA_SHA_384"
        algorithm = ec.ECDSA(utils.Prehashed(hashes.SHA384()))
        return bytes(key.private_key.sign(message, algorithm))

    setattr(ECDSAPrivateKey, "sign", sign)  # noqa: B010
    deregister = Scaling.deregister_scalable_target

    def forget(scaling: Scaling, namespace: str, resource: str, dimension: str) -> None:
        """Policies and actions go with their target; moto keeps them."""
        deregister(scaling, namespace, resource, dimension)
        kept = {name: one for name, one in scaling.policies.items() if one.resource_id != resource}
        scaling.policies = kept
        actions = [one for one in scaling.scheduled_actions if one.resource_id != resource]
        scaling.scheduled_actions = actions

    setattr(Scaling, "deregister_scalable_target", forget)  # noqa: B010
    _jobs_need_their_role()
    _requests_are_told()
    # Every load balancer of a moto stack is an application one, which knows no TCP.
    setattr(ELBv2Backend, "_validate_port_and_protocol", lambda *_: None)  # noqa: B010


def _jobs_need_their_role() -> None:
    """SageMaker refuses a job whose role it cannot take; moto asks no one."""
    from moto.backends import get_backend
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.sagemaker.exceptions import ValidationError
    from moto.sagemaker.models import SageMakerModelBackend

    create = SageMakerModelBackend.create_training_job

    def create_with_role(backend: Any, **request: Any) -> Any:
        arn = request["role_arn"]
        roles = get_backend("iam")[DEFAULT_ACCOUNT_ID]["aws"].roles.values()
        if arn not in {role.arn for role in roles}:
            raise ValidationError(
                f"Could not assume role {arn}. Please ensure that the role exists and allows "
                "principal 'sagemaker.amazonaws.com' to assume the role."
            )
        return create(backend, **request)

    setattr(SageMakerModelBackend, "create_training_job", create_with_role)  # noqa: B010


told: list[Callable[[Asked], None]] = []
"""Who hears of each request, in the server's thread."""
denied: list[Callable[[Asked], bool]] = []
"""Which requests are answered with AccessDenied."""


@dataclass(frozen=True)
class Asked:
    """A request as it arrived. ``who``: the access key's id. ``headers``: by lower-case name."""

    who: str
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes = field(repr=False)


def _requests_are_told() -> None:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication

    answer = DomainDispatcherApplication.__call__

    def tell(application: Any, environ: dict[str, Any], start: Any) -> Any:
        if told or denied:
            body = _body(environ)
            environ["wsgi.input"] = io.BytesIO(body)
            headers = {
                name.removeprefix("HTTP_").replace("_", "-").lower(): str(value)
                for name, value in environ.items()
                if name.startswith("HTTP_")
            }
            who = re.search(r"Credential=([^/]+)/", headers.get("authorization", ""))
            asked = Asked(
                who[1] if who else "",
                environ["REQUEST_METHOD"],
                environ["PATH_INFO"],
                dict(urllib.parse.parse_qsl(environ["QUERY_STRING"], keep_blank_values=True)),
                headers,
                body,
            )
            for one in told:
                one(asked)
            if any(one(asked) for one in denied):
                start("403 Forbidden", [("Content-Type", "application/xml")])
                return [b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"]
        return answer(application, environ, start)

    setattr(DomainDispatcherApplication, "__call__", tell)  # noqa: B010


def _body(environ: dict[str, Any]) -> bytes:
    length = environ.get("CONTENT_LENGTH") or "0"
    chunked = environ.get("wsgi.input_terminated", False)
    data: bytes = environ["wsgi.input"].read(*(() if chunked else (int(length),)))
    return data


@contextlib.contextmanager
def emulated() -> Iterator[Aws]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of moto's own dependencies
        from moto.server import ThreadedMotoServer

        _mend_moto()
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs each request
        server.start()
        host, port = server.get_host_and_port()
    environment = {**CREDENTIALS, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    clients._client.cache_clear()
    try:
        yield Aws(environment["AWS_ENDPOINT_URL"], environment)
    finally:
        server.stop()
        clients._client.cache_clear()
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
