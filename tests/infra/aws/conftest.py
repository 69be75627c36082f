"""An emulated AWS for the whole test session: a moto server of our own on a free port."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from tests.infra.aws.emulated import Aws, emulated


@pytest.fixture(scope="session")
def aws() -> Iterator[Aws]:
    with emulated() as found:
        yield found


@pytest.fixture
def bucket(aws: Aws) -> str:
    """A new, versioned bucket."""
    return aws.new_bucket(f"flo-{secrets.token_hex(6)}")
