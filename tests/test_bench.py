"""``flo bench``: every row has the documented fields, and its ratio is of what was measured."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from flo import bench
from flo.bench import compared, ledger, others, references
from flo.bench.made_up import HIDDEN, study_of, write
from flo.bench.plot import svg
from flo.cli import app, demo_cast, main
from flo.cli.bench import GROUPS, every_command
from flo.errors import FloError
from flo.lab.folds import folds
from flo.lab.simulation import load_hospitals, run_once
from flo.study.loading import load
from flo.study.models import parameter_count

DOCUMENTED = re.findall(r"``((?:\w+ ){3,}\w+)``", bench.__doc__ or "")[0].split()


def tiny_rows(group: str, device: str, *, quick: bool) -> Any:
    yield compared(group, f"nothing, {device}", lambda: None, lambda: None, how="x", runs=3)


def test_the_documented_fields_are_these() -> None:
    assert DOCUMENTED == ["group", "name", "flo", "reference", "ratio", "unit", "runs", "how"]


def test_a_small_group_prints_a_table_and_writes_rows(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    done = CliRunner().invoke(
        app,
        ["bench", "noise", "--json", str(file)],
        env={"COLUMNS": "200"},
        catch_exceptions=False,
    )
    assert done.exit_code == 0
    rows = json.loads(file.read_text())["rows"]
    assert [row["name"] for row in rows] == [
        f"{size} exact samples" for size in ("100", "10,000", "1,000,000")
    ]
    for row in rows:
        assert list(row) == DOCUMENTED
        assert (row["group"], row["unit"], row["runs"]) == ("noise", "s", 9)
        assert row["how"] == "numpy normal, not private"
        assert row["flo"] > 0 < row["reference"]
        assert row["ratio"] == pytest.approx(row["flo"] / row["reference"])
        assert row["name"] in done.output
    assert all(name in done.output for name in DOCUMENTED)


def test_without_a_group_all_are_measured_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flo.cli.bench._rows", tiny_rows)
    monkeypatch.setattr(
        "flo.clients.data_process.trainer.choose_device", str
    )  # as if one were there
    file = tmp_path / "rows.json"
    command = ["bench", "--device", "cuda", "--json", str(file)]
    assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0
    rows = json.loads(file.read_text())["rows"]
    assert tuple(row["group"] for row in rows) == GROUPS
    assert {row["name"] for row in rows} == {"nothing, cuda"}


def test_rows_that_were_measured_are_kept_when_a_later_one_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(group: str, device: str, *, quick: bool) -> Any:
        yield from tiny_rows(group, device, quick=quick)
        raise FloError("the reference did not finish")

    monkeypatch.setattr("flo.cli.bench._rows", failing)
    file = tmp_path / "rows.json"
    with pytest.raises(FloError, match="did not finish"):
        CliRunner().invoke(app, ["bench", "noise", "--json", str(file)], catch_exceptions=False)
    assert [row["group"] for row in json.loads(file.read_text())["rows"]] == ["noise"]


def test_every_group_has_rows_to_measure() -> None:
    from flo.cli.bench import _rows

    for group in GROUPS:
        assert hasattr(
            _rows(group, "cpu", quick=True), "__next__"
        )  # nothing is measured before it is asked for


def test_an_unknown_group_is_refused_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("flo.cli.bench._rows", pytest.fail)
    monkeypatch.setattr(sys, "argv", ["flo", "bench", "noise", "speed"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert f"no group 'speed'; there are {', '.join(GROUPS)}" in capsys.readouterr().err


def test_both_sides_are_warmed_up_and_measured_in_turns() -> None:
    calls: list[str] = []
    row = compared(
        "group",
        "name",
        lambda: calls.append("ours"),
        lambda: calls.append("theirs"),
        how="how",
        runs=6,
        blocks=3,
    )
    assert calls == (["ours"] * 3 + ["theirs"] * 3) * 3  # one to warm up, two that count
    assert (row["runs"], row["group"], row["name"], row["how"]) == (6, "group", "name", "how")


def test_the_ratio_is_of_medians(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock by hand: ours takes 2, 2 and once 100; theirs always 1."""
    now, ours = 0.0, iter([0.0, 2.0, 2.0, 100.0])

    def ticks() -> float:
        return now

    def slow() -> None:
        nonlocal now
        now += next(ours)

    def fast() -> None:
        nonlocal now
        now += 1.0

    monkeypatch.setattr(time, "perf_counter", ticks)
    row = compared("g", "n", slow, fast, how="h", runs=3, blocks=1)
    assert (row["flo"], row["reference"], row["ratio"]) == (2.0, 1.0, 2.0)


def test_a_device_that_is_not_there_is_refused_in_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["flo", "bench", "step", "--device", "abacus"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "abacus" in capsys.readouterr().err


@pytest.mark.processes
def test_the_start_of_every_command_is_measured() -> None:
    commands = every_command()
    assert len(commands) > 50
    assert {"demo", "site run", "study check", "audit verify", "coordinator serve"} <= set(commands)
    (row,) = others.start(["audit verify"])
    assert (row["name"], row["runs"]) == ("flo audit verify --help", 3)


# -- what is measured ------------------------------------------------------------------------------


@pytest.mark.parametrize("megabytes", HIDDEN)
def test_a_made_up_model_is_as_large_as_it_says(megabytes: float) -> None:
    study = study_of(4, megabytes, steps=3)
    assert 4e-6 * parameter_count(study) == pytest.approx(megabytes, rel=0.03)
    assert study.masked
    assert not study_of(4, megabytes, steps=3, secure_sum=False).masked


def test_made_up_patients_fit_their_study(tmp_path: Path) -> None:
    study = study_of(3, steps=5)
    write(study, tmp_path)
    assert load(tmp_path / "study.toml") == study
    found, seconds = run_once(
        study, next(folds(load_hospitals(study, tmp_path, "patient_id"), 5, 0))
    )
    assert (found.phase, len(seconds)) == ("done", 6)


@pytest.mark.processes
def test_sums_are_measured_in_a_process_of_their_own() -> None:
    """Flower's side too: its records and its FedAvg are where they are looked for."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from flo.bench import aggregate; aggregate._FLOATS = 1000; "
            "aggregate._main('flower', '3')",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["s"] > 0
    assert found["MB"] >= 0


def test_a_reference_that_never_ends_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(references, "_RUN_SECONDS", 0.3)
    times = tmp_path / "times.json"
    with pytest.raises(FloError, match="did not finish"):
        references._instants(times, 2)
    times.write_text("[1, 3, 4.5]")
    assert references._instants(times, 2) == [1, 3]


def test_a_demo_of_ones_own_study_names_the_file_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(study_of(3, steps=5), tmp_path)
    (tmp_path / "site-2.csv").unlink()
    command = ["flo", "demo", "--dir", str(tmp_path / "demo"), "--data", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [*command, "--study", str(tmp_path / "study.toml")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "site-2.csv for hospital 'site-2'" in said.replace("/ ", "/")
    assert "one HOSPITAL.csv for each hospital" in said


@pytest.mark.slow
def test_a_command_of_the_demo_that_dies_without_a_word_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_cast, "_carry_out", _dies)
    with pytest.raises(FloError, match=r"`flo site init` failed with exit code -9"):
        demo_cast.Cast(tmp_path).do("site", "init")


def _dies(arguments: tuple[str, ...], answer: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def once(compared: Callable[..., Any], *arguments: Any, **settings: Any) -> Any:
    """Each thing is measured once, and not until the figure is steady."""
    return compared(*arguments, **{**settings, "runs": 1, "blocks": 1})


@pytest.mark.slow
def test_the_ledgers_rows_are_measured_on_a_real_site(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "ENTRIES", (5, 10, 15, 80))
    monkeypatch.setattr(ledger, "compared", partial(once, compared))
    found = list(ledger.rows(quick=False))
    assert [row["name"] for row in found if row["name"].startswith("open")] == [
        f"open + gate, {entries} entries" for entries in (5, 10, 15, 80)
    ]
    assert len(found) == 9
    assert all(row["flo"] > 0 and row["reference"] > 0 for row in found)


def test_the_picture_has_a_bar_for_every_row_and_says_what_it_is_measured_against() -> None:
    rows = [
        {"group": "rounds", "name": "4 agents, <1 MB>", "ratio": 0.05, "how": "stock Flower"},
        {"group": "rounds", "name": "8 agents", "ratio": 0.5, "how": "NVFLARE"},
        {"group": "ledger", "name": "charge", "ratio": 30.0, "how": "1 KiB, fsync"},
    ]
    picture = ElementTree.fromstring(svg(rows))
    space = "{http://www.w3.org/2000/svg}"
    bars = picture.findall(f"{space}rect")
    assert [bar.get("class") for bar in bars] == ["less", "less", "more"]
    first, second, third = (float(bar.get("width", "nan")) for bar in bars)
    assert first / second == pytest.approx(math.log(0.05) / math.log(0.5), rel=0.01)
    assert third / second == pytest.approx(math.log(30) / -math.log(0.5), rel=0.01)
    texts = {text.text for text in picture.findall(f"{space}text")}
    assert {"4 agents, <1 MB>", "0.05 × stock Flower", "30 × 1 KiB, fsync"} <= texts
