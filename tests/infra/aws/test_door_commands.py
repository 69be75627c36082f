"""`flo model deploy`, `canary --on` and `rollback --on`, as an operator types them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomli_w

from flo.clients.home.site_home import SiteHome
from flo.errors import EXIT_OK, EXIT_REFUSED, EXIT_USAGE
from flo.infra.aws.serving.settings import HospitalAws
from tests.clients.prediction.told import Told, promote
from tests.commands import Ended, flo
from tests.infra.aws.doors import WHY, a_site, account_of, told_of_both
from tests.infra.aws.emulated import Aws
from tests.infra.aws.functions import emulated_lambda

pytestmark = pytest.mark.slow


@pytest.fixture
def site(tmp_path: Path) -> SiteHome:
    return a_site(tmp_path)


@pytest.fixture
def told() -> Told:
    return told_of_both()


@pytest.fixture
def settings(aws: Aws, site: SiteHome) -> Iterator[HospitalAws]:
    found = account_of(aws)
    write(site, found)
    with emulated_lambda(aws):
        yield found


def write(site: SiteHome, settings: HospitalAws) -> None:
    document = settings.model_dump(mode="json", exclude_none=True)
    settings_of(site).parent.mkdir(exist_ok=True)
    settings_of(site).write_text(tomli_w.dumps(document))


def settings_of(site: SiteHome) -> Path:
    return site.directory / "aws" / "tiny.toml"


def model(site: SiteHome, *words: str) -> Ended:
    return flo("model", *words, "--why", WHY, "--home", site.directory)


def test_a_version_is_deployed_replaced_rolled_back_and_removed(
    site: SiteHome, told: Told, settings: HospitalAws
) -> None:
    promote(site, told, "tiny:9")
    both = model(site, "deploy", "tiny", "--on", "lambda", "--dry-run", "--remove")
    assert "leave out --dry-run" in both.stderr
    planned = model(site, "deploy", "tiny", "--on", "lambda", "--dry-run")
    assert planned.returncode == EXIT_OK, planned.stderr
    assert "nothing was deployed" in planned.stdout
    done = model(site, "deploy", "tiny", "--on", "lambda", "--json", "-")
    assert done.returncode == EXIT_OK, done.stderr
    assert json.loads(done.stdout) | {"card": ""} == {
        "schema_version": 1,
        "name": "tiny",
        "version": 9,
        "card": "",
        "state": "live",
    }
    promote(site, told, "tiny:10")
    done = model(site, "deploy", "tiny", "--on", "lambda")
    assert "tiny, version 10 answers at flo-tiny" in done.stdout
    assert "flo model rollback tiny --on lambda" in done.stdout
    shown = flo("model", "deployed", "tiny", "--on", "lambda", "--home", site.directory)
    assert "version 10 answers 100 % of requests at flo-tiny" in shown.stdout
    assert "version 9 was live before" in shown.stdout
    back = model(site, "rollback", "tiny", "--on", "lambda")
    assert "version 9 of tiny answers all requests at flo-tiny" in back.stdout
    again = model(site, "rollback", "tiny", "--on", "lambda")
    assert again.returncode == EXIT_USAGE
    assert "was live before" in again.stderr
    gone = model(site, "deploy", "tiny", "--on", "lambda", "--remove")
    assert "answers on lambda no more" in gone.stdout
    gone = model(site, "rollback", "tiny", "--on", "lambda")
    assert "nothing answers at flo-tiny" in gone.stderr


def test_what_is_refused_says_what_to_do(site: SiteHome, told: Told, settings: HospitalAws) -> None:
    promote(site, told, "tiny:9")
    write(site, settings.model_copy(update={"account": "999999999999"}))
    other = model(site, "deploy", "tiny", "--on", "lambda")
    assert other.returncode == EXIT_REFUSED
    assert "the site's settings name 999999999999" in other.stderr
    write(site, settings.model_copy(update={"function": None}))
    assert "has no section [function]" in model(site, "deploy", "tiny", "--on", "lambda").stderr
    settings_of(site).write_text("account = 12\n")
    assert "account" in model(site, "deploy", "tiny", "--on", "lambda").stderr
    settings_of(site).unlink()
    none = model(site, "deploy", "tiny", "--on", "lambda")
    assert none.returncode == EXIT_USAGE
    assert "tiny.toml does not exist" in none.stderr
    assert "docs/cloud-doors.md" in none.stderr
    off = model(site, "canary", "tiny:10", "--off", "--on", "lambda")
    assert "flo model rollback NAME --on lambda" in off.stderr
    unknown = model(site, "deploy", "other", "--on", "lambda")
    assert unknown.returncode == EXIT_USAGE
