"""One coordinator process for the whole session, with three enrolled hospitals."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from flo.clients.home.site_home import SiteHome
from tests.builders import HOSPITALS
from tests.server.real_coordinator import RealCoordinator, serving


@pytest.fixture(scope="session")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCoordinator]:
    with serving(tmp_path_factory.mktemp("coordinator") / "home") as real:
        yield real


@pytest.fixture(scope="session")
def sites(
    coordinator: RealCoordinator, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, SiteHome]:
    return {name: coordinator.enrol(tmp_path_factory.mktemp(name), name) for name in HOSPITALS}
