"""boto3 clients, and translation of AWS's errors into FLO's.

boto3 finds ``AWS_ENDPOINT_URL``, region and credentials in the environment, the instance or the
job; FLO stores none of them.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flo.errors import FloError, NetworkError, RefusedError, TrustError, UsageError

_PATIENT, _HURRIED = (5, 60, 4), (2, 5, 1)  # seconds to connect and to read, tries
_making = threading.Lock()
_DENIED = {"AccessDenied", "AccessDeniedException", "UnrecognizedClientException"}
_BUSY = {"ThrottlingException", "Throttling", "SlowDown", "ServiceUnavailable", "InternalError"}


def client(service: str, region: str | None = None, *, hurried: bool = False) -> Any:
    """Return a boto3 client. Raises UsageError if the extra or the region is missing.

    ``hurried``: for questions that are asked again anyway; it gives up after 7 seconds.
    """
    with _making:  # a client may be used by several threads, and made by one at a time
        return _client(service, region, hurried)


@functools.cache
def _client(service: str, region: str | None, hurried: bool) -> Any:
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import NoRegionError
    except ImportError as error:
        raise UsageError(
            "the configuration uses AWS, but the AWS libraries are not installed",
            hint="pip install 'flo-federated[aws]'",
        ) from error
    connect, read, tries = _HURRIED if hurried else _PATIENT
    config = Config(
        connect_timeout=connect,
        read_timeout=read,
        retries={"mode": "standard", "total_max_attempts": tries},
    )
    try:
        return boto3.client(service, region_name=region, config=config)
    except NoRegionError as error:
        raise UsageError("no AWS region is set", hint="set AWS_REGION, or `region`") from error


@contextmanager
def translate_errors(what: str) -> Iterator[None]:
    """Translate botocore's errors into FLO's, naming ``what`` was attempted.

    Raises:
        NetworkError: AWS was not reached, or is too busy. TrustError: it denies access. UsageError:
        there are no credentials, or any other error, with its code.
    """
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        ConnectionError,  # botocore's, not the built-in one
        HTTPClientError,
        NoCredentialsError,
    )
    from botocore.parsers import ResponseParserError

    try:
        yield
    except ClientError as error:
        raise _translated(what, error.response.get("Error", {})) from error
    except NoCredentialsError as error:
        raise UsageError(
            f"{what}: no AWS credentials were found", hint="give this machine an IAM role"
        ) from error
    except ResponseParserError as error:
        raise NetworkError(
            f"{what}: the answer does not come from AWS",
            hint="check for a proxy in between, or try again later",
        ) from error
    except (ConnectionError, HTTPClientError, OSError) as error:
        raise NetworkError(f"{what}: AWS does not answer", hint="try again later") from error
    except BotoCoreError as error:
        raise UsageError(f"{what}: {error}") from error


def refuse_other_account(account: str, region: str) -> None:
    """Raise RefusedError if the credentials are of another account than the hospital's own."""
    with translate_errors("asking whose credentials these are"):
        found = str(client("sts", region).get_caller_identity()["Account"])
    if found != account:
        raise RefusedError(
            f"the credentials are of account {found}, and the site's settings name {account}",
            hint="patients' records go to the hospital's own account only: use its credentials",
        )


def code_of(error: Exception) -> str:
    """Return the code of a botocore ``ClientError``."""
    response: dict[str, Any] = getattr(error, "response", {})
    return str(response.get("Error", {}).get("Code", ""))


def _translated(what: str, said: dict[str, Any]) -> FloError:
    code = str(said.get("Code", "unknown"))
    if code in _DENIED:
        return TrustError(
            f"{what}: AWS denied access ({code})", hint="check what this machine's role allows"
        )
    if code in _BUSY:
        return NetworkError(f"{what}: AWS is busy ({code})", hint="try again later")
    return UsageError(f"{what}: {code}: {str(said.get('Message', ''))[:300]}")
