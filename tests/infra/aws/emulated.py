"""A moto server in this process, on a free port of loopback, and what a test needs in it."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

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
    # Every load balancer of a moto stack is an application one, which knows no TCP.
    setattr(ELBv2Backend, "_validate_port_and_protocol", lambda *_: None)  # noqa: B010


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
