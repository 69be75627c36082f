"""A site's folder: made once, for its owner only, with one agent at a time."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flo.clients.home.policy import Policy
from flo.clients.home.site_config import SiteConfig, make_config
from flo.clients.home.site_home import SiteHome
from flo.errors import PolicyError, RefusedError, UsageError
from tests.builders import csv_text, make_site


def config(folder: Path, **changes: Any) -> SiteConfig:
    data = folder / "patients.csv"
    data.write_text(csv_text())
    arguments: dict[str, Any] = {
        "file": data,
        "id_column": "patient_id",
        "epsilon": 0.9,
        "declared_size": 40,
        "hold_out": 0.3,
    }
    return make_config("north", **{**arguments, **changes})


def test_a_new_site_has_its_keys_and_one_population(tmp_path: Path) -> None:
    home = make_site(tmp_path)
    again = SiteHome.open(home.directory)
    assert again.read_config() == home.read_config()
    assert again.open_identity().fingerprint == home.open_identity().fingerprint
    ledger = again.open_ledger()
    assert list(ledger.balance().lives) == ["main"]
    assert ledger.balance().lives["main"].epsilon == 0.9
    ledger.close()


def test_a_second_init_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    home = make_site(tmp_path)
    before = {path: path.read_bytes() for path in home.directory.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match="is already a site folder"):
        SiteHome.create(home.directory, config(tmp_path, epsilon=0.5))
    assert before == {p: p.read_bytes() for p in home.directory.rglob("*") if p.is_file()}


def test_epsilon_of_one_or_more_needs_consent_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="ε = 1 is 1 or more"):
        SiteHome.create(tmp_path / "site", config(tmp_path, epsilon=1))
    assert not (tmp_path / "site").exists()


def test_with_consent_epsilon_may_be_one_or_more(tmp_path: Path) -> None:
    consents = Policy(consent_to_epsilon_of_one_or_more=True)
    home = SiteHome.create(tmp_path / "site", config(tmp_path, epsilon=2), consents)
    assert home.read_policy() == consents


def test_just_below_one_needs_no_consent(tmp_path: Path) -> None:
    SiteHome.create(tmp_path / "site", config(tmp_path, epsilon=0.9999))


def test_a_budget_too_small_to_be_any_is_refused_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        SiteHome.create(tmp_path / "site", config(tmp_path, epsilon=0.001))
    assert not (tmp_path / "site" / "site.toml").exists()


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        pytest.param({"epsilon": 0}, "epsilon", id="epsilon 0"),
        pytest.param({"epsilon": -1}, "epsilon", id="epsilon negative"),
        pytest.param({"epsilon": float("nan")}, "epsilon", id="epsilon NaN"),
        pytest.param({"epsilon": float("inf")}, "epsilon", id="epsilon infinite"),
        pytest.param({"hold_out": 0}, "hold_out", id="nobody held out"),
        pytest.param({"hold_out": 1}, "hold_out", id="everybody held out"),
        pytest.param({"declared_size": 5}, "declared_size", id="tiny size"),
        pytest.param({"id_column": " "}, "id_column", id="no id column"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, changes: dict[str, Any], fragment: str) -> None:
    with pytest.raises(UsageError, match=fragment):
        config(tmp_path, **changes)


def test_a_hospital_id_is_never_a_path(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="hospital"):
        make_config(
            "../north",
            file=tmp_path,
            id_column="x",
            epsilon=0.5,
            declared_size=40,
            hold_out=0.3,
        )


def test_the_declared_size_is_rounded(tmp_path: Path) -> None:
    assert config(tmp_path, declared_size=303).populations[0].declared_size == 300


def test_everything_in_the_folder_is_for_its_owner_only(tmp_path: Path) -> None:
    home = make_site(tmp_path)
    home.open_keystore()
    with home.agent_lock():
        modes = {
            path.relative_to(home.directory).as_posix(): stat.S_IMODE(path.stat().st_mode)
            for path in [home.directory, *home.directory.rglob("*")]
        }
    folders = {".", "approved", "snapshots", "replies", "extracts", "erasures", "finished"}
    assert folders < set(modes)
    assert modes == {name: 0o700 if name in folders else 0o600 for name in modes}


def test_what_is_no_site_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a site's folder"):
        SiteHome.open(tmp_path)


def test_a_site_that_is_not_enrolled_has_no_coordinator(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not enrolled"):
        _ = make_site(tmp_path).read_coordinator()


def test_a_population_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    settings = make_site(tmp_path).read_config()
    assert settings.population(None).name == settings.population("main").name == "main"
    with pytest.raises(UsageError, match="population of this site: main"):
        settings.population("other")


def test_with_two_populations_one_must_be_named(tmp_path: Path) -> None:
    home = make_site(tmp_path)
    add_population(home, "clinic")
    assert home.register_populations() == ["clinic"]
    assert home.register_populations() == []
    with pytest.raises(UsageError, match="population of this site: main, clinic"):
        home.read_config().population(None)


def test_a_second_population_without_the_stewards_statement_is_not_born(tmp_path: Path) -> None:
    home = make_site(tmp_path)
    add_population(home, "clinic", statement="")
    with pytest.raises(PolicyError, match="needs the steward's statement"):
        home.register_populations()
    ledger = home.open_ledger()
    assert set(ledger.balance().lives) == {"main"}
    ledger.close()


def test_the_same_population_twice_is_refused(tmp_path: Path) -> None:
    home = make_site(tmp_path)
    add_population(home, "main")
    with pytest.raises(UsageError, match="same population name occurs twice"):
        _ = home.read_config()


def test_an_unknown_key_in_site_toml_is_refused(tmp_path: Path) -> None:
    home = make_site(tmp_path)
    home.config_path.write_text("surprise = 1\n" + home.config_path.read_text())
    with pytest.raises(UsageError, match="surprise: Extra inputs"):
        _ = home.read_config()


@pytest.mark.processes
def test_a_second_agent_in_another_process_is_refused(tmp_path: Path) -> None:
    home = make_site(tmp_path)
    script = (
        "import sys; from pathlib import Path; from flo.clients.home.site_home import SiteHome\n"
        "from flo.errors import RefusedError\n"
        "try:\n"
        "    with SiteHome(Path(sys.argv[1])).agent_lock(): print('running')\n"
        "except RefusedError as error: print('refused:', error)"
    )

    def second() -> str:
        command = [sys.executable, "-c", script, str(home.directory)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    with home.agent_lock():
        assert second().startswith("refused: another agent already runs")
    assert second() == "running\n"


@pytest.mark.slow
def test_a_second_agent_in_the_same_process_is_refused(tmp_path: Path) -> None:
    home = make_site(tmp_path)
    with home.agent_lock(), pytest.raises(RefusedError, match="another agent"), home.agent_lock():
        pass


STATEMENT = 'statement = "None of them is in another population."'


def add_population(home: SiteHome, name: str, statement: str = STATEMENT) -> None:
    with home.config_path.open("a") as file:
        file.write(
            f'\n[[populations]]\nname = "{name}"\nfile = "{home.directory}/../{name}.csv"\n'
            'id_column = "patient_id"\nhold_out = 0.3\nepsilon = 0.9\ndeclared_size = 40\n'
            f"{statement}\n"
        )
