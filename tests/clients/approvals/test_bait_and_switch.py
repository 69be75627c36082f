"""A yes is to the text that was read: another study under the same name is not approved."""

from __future__ import annotations

from pathlib import Path

import pytest

from flo.cli.coordinator.operator import Operator
from flo.clients.home.site_home import SiteHome
from tests.builders import small_study, study_document
from tests.commands import flo
from tests.server.real_coordinator import RealCoordinator, new_home, served

pytestmark = pytest.mark.processes


def offer(operator: Operator, sites: list[SiteHome], version: int) -> str:
    hospitals = [{"id": site.read_config().hospital, "declared_size": 40} for site in sites]
    study = small_study(**study_document(hospitals=hospitals, version=version))
    return str(operator.call("POST", "studies", body=study.canonical_bytes)["digest"])


def test_a_study_that_was_exchanged_after_it_was_read_is_not_approved(tmp_path: Path) -> None:
    with served(RealCoordinator(new_home(tmp_path / "coordinator"))) as coordinator:
        sites = [coordinator.enrol(tmp_path / name, name) for name in ("north", "south", "west")]
        home = ("--home", sites[0].directory)
        with Operator(coordinator.home.directory) as operator:
            read = offer(operator, sites, 1)
            assert flo("site", "review", "tiny", *home).returncode == 0
            operator.call("POST", f"studies/{read}/stop")
            bait = offer(operator, sites, 2)
            keys = [
                f"{one.read_config().hospital}={one.open_identity().fingerprint}" for one in sites
            ]
            assert flo("site", "confirm", *keys, *home).returncode == 0
            for named in (["tiny"], ["tiny:2"], [], [bait[:11]]):
                refused = flo("site", "approve", *named, "--yes", *home)
                assert refused.returncode == 3
                assert f"tiny:2 ({bait[:12]}) was not reviewed here" in refused.stderr
                assert "flo site review tiny:2" in refused.stderr
            assert list((sites[0].directory / "approved").glob("*.json")) == []
            assert flo("site", "review", "tiny:2", *home).returncode == 0
            assert flo("site", "approve", "tiny", "--yes", *home).returncode == 0
            other = ("--home", sites[1].directory)
            assert flo("site", "confirm", *keys, *other).returncode == 0
            by_digest = flo("site", "approve", bait[:12], "--yes", *other)
            assert by_digest.returncode == 0, by_digest.stderr
            at = ("--home", coordinator.home.directory)
            out = ("--out", tmp_path / "extracts")
            for command, more in (("stop", ("--yes",)), ("watch", ()), ("extracts", out)):
                silent = flo("study", command, "tiny", *more, *at)
                assert silent.returncode == 2, silent.stdout
                found = f"several studies match: tiny:1 ({read[:12]}, stopped), tiny:2 ({bait[:12]}"
                assert found in silent.stderr
            unasked = flo("study", "stop", "tiny:2", *at)
            assert unasked.returncode == 3
            assert "tiny:2 (offered) was not ended" in unasked.stderr
            assert flo("study", "stop", "tiny:2", "--yes", *at).returncode == 0
