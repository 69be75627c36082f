"""Each example's page tells who they are and what came of it; its command gives it again."""

from __future__ import annotations

import json
import math
import re
import shlex
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flo.lab.years import study_of_a_year
from flo.study.document import Study, from_document
from flo.study.loading import load
from tests import admission
from tests.commands import flo_process
from tests.paths import EXAMPLES, ROOT

YEARLY = EXAMPLES / "yearly" / "README.md"  # which repeats the study of another page
PAPER = EXAMPLES / "paper" / "README.md"  # of statistics, which have no AUC
SURVIVAL = EXAMPLES / "survival" / "README.md"  # of the time to an event
FUNCTION = EXAMPLES / "function" / "README.md"  # of classes
STAY = EXAMPLES / "stay" / "README.md"  # of a count
ADMISSION = EXAMPLES / "admission" / "README.md"  # of a sequence, by several models
OTHERS = {PAPER, SURVIVAL, STAY, FUNCTION, ADMISSION}
PAGES = sorted(set(EXAMPLES.glob("*/README.md")) - {YEARLY} - OTHERS)
STUDIES = sorted(
    set(EXAMPLES.glob("*/*.toml"))
    - {file for page in OTHERS for file in page.parent.glob("*.toml")}
)
_ROW = re.compile(
    r"\| \[[\w.-]+\]\(([\w.-]+)\) \| ([\d.]+) \| (local|distributed) "
    r"\| (\.\d+) \(\.\d+ to (?:1\.0+|\.\d+)\) \| ± (\.\d+) "
    r"\| (\.\d+) \| (\.\d+) \| (\.\d+|-) \| (\.\d+) \| (\.\d+) \|"
)
_HOSPITAL = re.compile(
    r"^\| ([a-z0-9-]+) \| ([\d,]+) \| ([\d,]+) \| (\.\d+) \| (?:\.\d+ \| )?(\.\d+) \| (\.\d+) \|$",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Row:
    """What a page says of one study."""

    page: Path
    study: Path
    command: list[str]
    epsilon: float
    trust: str
    auc: float
    noise: float
    pooled: float
    within: float
    finished: float
    within_pooled: float
    within_alone: float

    @property
    def error(self) -> float:
        """Of the mean over the folds: four standard deviations of the noise, and the rounding."""
        folds = (
            int(self.command[self.command.index("--folds") + 1]) if "--folds" in self.command else 5
        )
        return 4 * self.noise / math.sqrt(folds) + 0.002


def rows() -> list[Row]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        commands = re.findall(r"^flo (simulate .*)$", text, flags=re.MULTILINE)
        for file, epsilon, trust, *numbers in _ROW.findall(text):
            path = page.parent / file
            named = str(path.relative_to(ROOT))
            (command,) = [c for c in commands if named in c]
            words = shlex.split(command, comments=True)
            values = (math.nan if number == "-" else float(number) for number in numbers)
            found.append(Row(page, path, words, float(epsilon), trust, *values))
    return found


ROWS = rows()
_QUICK = {"heart/study.toml"}  # whose numbers `make test-full` computes again, not `make examples`


def name(row: Row) -> str:
    return f"{row.page.parent.name}/{row.study.name}"


each = pytest.mark.parametrize("row", ROWS, ids=name)
computed = pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, marks=pytest.mark.slow if name(row) in _QUICK else pytest.mark.examples)
        for row in ROWS
    ],
    ids=name,
)


def test_every_study_has_a_row_on_the_page_beside_it() -> None:
    assert {row.study for row in ROWS} == set(STUDIES)
    assert {page.parent for page in PAGES} == {study.parent for study in STUDIES}


@each
def test_a_page_says_what_its_study_says(row: Row) -> None:
    study: Study = load(row.study)
    assert (row.epsilon, row.trust) == (study.mechanism.epsilon, study.mechanism.noise)
    study.refuse_unfinished()
    text = row.page.read_text(encoding="utf-8")
    assert re.search(r"\*\*Sites\*\*:.*(natural|simulated)", text)
    assert re.search(r"\*\*A record\*\*:", text)
    assert "cannot show" in text


@computed
def test_the_numbers_of_a_page_come_again_within_its_error(row: Row) -> None:
    words = [ROOT / word if word.startswith("examples/") else word for word in row.command]
    done = flo_process(*words, "--json", "-", seconds=900)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["auc"] == pytest.approx(row.auc, abs=row.error)
    assert found["auc_within"] == pytest.approx(row.within, abs=4 * row.noise + 0.01)
    if not math.isnan(row.finished):
        assert found["auc_within_finished"] == pytest.approx(row.finished, abs=4 * row.noise + 0.01)
    for name, said in (
        ("auc_pooled", row.pooled),
        ("auc_within_pooled", row.within_pooled),
        ("auc_within_alone", row.within_alone),
    ):
        assert found[name] == pytest.approx(said, abs=0.0015), name
    told = _HOSPITAL.findall(row.page.read_text(encoding="utf-8"))
    assert len(told) in (0, len(found["sites"]))
    for hospital, patients, positive, _, pooled, alone in told:
        one = found["sites"][hospital]
        assert (f"{one['patients']:,}", f"{one['positive']:,}") == (patients, positive)
        assert one["auc_pooled"] == pytest.approx(float(pooled), abs=0.0015)
        assert one["auc_alone"] == pytest.approx(float(alone), abs=0.0015)


_BY_STEPS = re.compile(
    r"\| \[([\w.-]+)\]\([\w.-]+\) \| \w+, .* \| (\.\d+) \(.*\) \| (\.\d+) \|.*\n"
)


@pytest.mark.examples
def test_the_linear_models_of_the_page_of_admissions_come_again_within_its_error(
    tmp_path: Path,
) -> None:
    """Needs the data of the proofs: ``make .venv/.ready-proofs``."""
    text = ADMISSION.read_text(encoding="utf-8")
    said = {file: (float(auc), float(pooled)) for file, auc, pooled in _BY_STEPS.findall(text)}
    assert said.keys() == {path.name for path in ADMISSION.parent.glob("*.toml")}
    commands = re.findall(r"^flo (simulate .*)$", text, flags=re.MULTILINE)
    assert len(commands) == 2
    admission.write(tmp_path)
    for command in commands:
        words = [ROOT / word if word.endswith(".toml") else word for word in command.split()]
        words[words.index("DIR")] = tmp_path
        done = flo_process(*words, "--json", "-", seconds=300)
        assert done.returncode == 0, done.stderr
        found, (auc, pooled) = json.loads(done.stdout), said[Path(words[1]).name]
        assert found["auc"] == pytest.approx(auc, abs=0.02)
        assert found["auc_pooled"] == pytest.approx(pooled, abs=0.0015)


# -- other outcomes than yes or no -----------------------------------------------------------------


def with_its_concordance(page: Path, seeds: str = "") -> tuple[str, dict[str, Any]]:
    """The page, and what its command gives again; both have the same concordance or macro AUC.

    ``seeds``: fewer than the page has, as it would take long.
    """
    text = page.read_text(encoding="utf-8")
    (command,) = re.findall(r"^flo (simulate .*--compare.*)$", text, flags=re.MULTILINE)
    words = [ROOT / word if word.endswith(".toml") else word for word in command.split()]
    if seeds:
        words[words.index("--seeds") + 1] = seeds
    done = flo_process(*words, "--json", "-", seconds=300)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    (said,) = re.findall(
        r"(?:concordance|macro AUC) is (\.\d+), pooled without privacy (\.\d+)", text
    )
    assert found["auc"] == pytest.approx(float(said[0]), abs=0.012)
    assert found["auc_pooled"] == pytest.approx(float(said[1]), abs=0.0015)
    return text, found


# -- the time to an event --------------------------------------------------------------------------

_HORIZON = re.compile(r"^\| (\d+) days \| (\.\d+) \| (\.\d+) \|$", re.MULTILINE)


@pytest.mark.examples
def test_the_numbers_of_the_survival_page_come_again_within_its_error() -> None:
    text, found = with_its_concordance(SURVIVAL)
    rows = _HORIZON.findall(text)
    assert len(rows) == len(found["horizons"]) == 3
    for (days, predicted, observed), one in zip(rows, found["horizons"], strict=True):
        assert int(days) == one["horizon"]
        assert one["predicted"] == pytest.approx(float(predicted), abs=0.03)
        assert one["observed"] == pytest.approx(float(observed), abs=0.002)


# -- a count ---------------------------------------------------------------------------------------

_WARD = re.compile(r"^\| ([a-z-]+) \| ([\d,]+)" + r" \| (\.\d+)" * 4 + r" \|$", re.MULTILINE)


@pytest.mark.examples
def test_the_numbers_of_the_page_of_stays_come_again_within_its_error() -> None:
    text, found = with_its_concordance(STAY)
    (mean,) = re.findall(
        r"Expected are ([\d.]+) days on average, observed ([\d.]+); the expected days explain "
        r"(\.\d+) of the deviance.* on its own patients, they explain (\.\d+)",
        text,
    )
    expected, observed, explained, at_home = map(float, mean)
    assert found["values"]["predicted"] == pytest.approx(expected, abs=0.6)
    assert found["values"]["observed"] == pytest.approx(observed, abs=0.06)
    assert found["values"]["explained"] == pytest.approx(explained, abs=0.03)
    assert found["values"]["explained_finished"] == pytest.approx(at_home, abs=0.02)
    told = _WARD.findall(text)
    assert [name for name, *_ in told] == list(found["sites"])
    for name, patients, _, finished, pooled, alone in told:
        one = found["sites"][name]
        assert one["auc_finished"] == pytest.approx(float(finished), abs=0.03)
        assert f"{one['patients']:,}" == patients
        assert one["auc_pooled"] == pytest.approx(float(pooled), abs=0.0015)
        assert one["auc_alone"] == pytest.approx(float(alone), abs=0.0015)


# -- several classes -------------------------------------------------------------------------------

_OF_CLASS = re.compile(r"^\| (\w+)" + r" \| (\.\d+)" * 4 + r" \|$", re.MULTILINE)


@pytest.mark.examples
def test_the_numbers_of_the_page_of_classes_come_again_within_its_error() -> None:
    text, found = with_its_concordance(FUNCTION, seeds="1")
    rows = _OF_CLASS.findall(text)
    assert [name for name, *_ in rows] == [one["class"] for one in found["classes"]]
    for (_, auc, predicted, observed, finished), one in zip(rows, found["classes"], strict=True):
        assert one["auc"] == pytest.approx(float(auc), abs=0.03)
        assert one["auc_finished"] == pytest.approx(float(finished), abs=0.03)
        assert one["predicted"] == pytest.approx(float(predicted), abs=0.02)
        assert one["observed"] == pytest.approx(float(observed), abs=0.001)
    assert [name for name, *_ in _WARD.findall(text)] == list(found["sites"])


# -- five years of one study -----------------------------------------------------------------------

_YEAR = re.compile(
    r"^\| (\d) \|" + r" \**(\.\d+)\** ± (\.\d+) \|" * 4 + "$",
    re.MULTILINE,
)
_WAYS = ("first_only", "fresh", "continued", "all_at_once")


def test_the_second_years_study_is_as_the_page_writes_it() -> None:
    """The page's lines, in place of the study's own, make a study that continues a model."""
    (written,) = re.findall(r"```toml\n(.*?)```", YEARLY.read_text(encoding="utf-8"), re.DOTALL)
    changes = tomllib.loads(written)
    study = load(EXAMPLES / "support2" / "study.toml")
    (first,) = changes.pop("hospitals")
    planned = study_of_a_year(study, 1, 5)
    document = planned.model_dump(mode="json") | changes
    assert planned.hospital(first["id"]).model_dump(exclude={"fingerprint"}) == first
    found = from_document(document)
    assert found.version == planned.version == 2
    assert found.continues is not None
    assert found.lineage == ()


@pytest.mark.examples
def test_the_years_of_a_page_come_again_within_their_error() -> None:
    text = YEARLY.read_text(encoding="utf-8")
    (command,) = re.findall(r"^flo (simulate .*)$", text, flags=re.MULTILINE)
    words = [ROOT / word if word.endswith(".toml") else word for word in command.split()]
    words[words.index("--seeds") + 1] = "4"
    done = flo_process(*words, "--json", "-", seconds=900)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["life_epsilon"] <= 0.5
    rows = _YEAR.findall(text)
    assert len(rows) == len(found["years"]) == 5
    for row, one in zip(rows, found["years"], strict=True):
        assert int(row[0]) == one["year"]
        for way, auc, error in zip(_WAYS, row[1::2], row[2::2], strict=True):
            apart = math.hypot(float(error), one["standard_errors"][way])
            assert one[way] == pytest.approx(float(auc), abs=4 * apart + 0.0005), way


@pytest.mark.slow  # 4 s
def test_the_notebook_runs_from_top_to_bottom() -> None:
    notebook = json.loads((EXAMPLES / "notebook.ipynb").read_text(encoding="utf-8"))
    names: dict[str, object] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "notebook.ipynb", "exec"), names)
    assert {"result", "by_epsilon", "one_round"} <= set(names)
