"""Flag, then FLO_* variable, then the file, then the default: everywhere the same order."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from flo.documents.document import Document, parse, read_json, read_toml
from flo.errors import MessageError, UsageError
from tests.builders import make_site


@pytest.mark.parametrize(
    ("flags", "variable", "file", "expected"),
    [
        pytest.param(["--device", "cuda"], "cpu", "cpu", "cuda", id="flag"),
        pytest.param([], "cuda", "cpu", "cuda", id="variable"),
        pytest.param([], None, "cpu", "cpu", id="file"),
        pytest.param([], None, None, "auto", id="default"),
    ],
)
def test_the_device_of_an_agent_follows_the_order(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    variable: str | None,
    file: str | None,
    expected: str,
) -> None:
    seen: list[str] = []

    class FakeAgent:
        def __init__(self, home: object, device: str) -> None:
            seen.append(device)

        def run(self) -> None:
            pass

    home = make_site(tmp_path)
    text = home.config_path.read_text().replace('device = "auto"\n', "")
    home.config_path.write_text((f'device = "{file}"\n' if file else "") + text)
    with warnings.catch_warnings():
        # typer < 0.21 imports a name that click 8.3 deprecates.
        warnings.simplefilter("ignore", DeprecationWarning)
        from typer.testing import CliRunner

        from flo.cli import app

        monkeypatch.setattr("flo.clients.agent.agent.Agent", FakeAgent)
    monkeypatch.setattr("flo.host.logs.start_logging", lambda *_, **__: None)
    if variable is None:
        monkeypatch.delenv("FLO_DEVICE", raising=False)
    else:
        monkeypatch.setenv("FLO_DEVICE", variable)
    done = CliRunner().invoke(
        app, ["site", "run", "--home", str(home.directory), *flags], catch_exceptions=False
    )
    assert done.exit_code == 0
    assert seen == [expected]


class Point(Document):
    x: float


@pytest.mark.parametrize(
    ("value", "fragment"),
    [
        pytest.param({"x": 1, "y": 2}, "y: Extra inputs", id="unknown key"),
        pytest.param({}, "x: Field required", id="missing key"),
        pytest.param({"x": "secretcode"}, "x: Input should be a valid number", id="wrong type"),
        pytest.param({"x": float("nan")}, "x: Input should be a finite number", id="NaN"),
        pytest.param([], "document: ", id="not a table"),
    ],
)
def test_a_wrong_setting_is_named_without_its_value(value: object, fragment: str) -> None:
    with pytest.raises(UsageError, match=fragment) as refusal:
        parse(Point, value, "point.toml")
    assert str(refusal.value).startswith("point.toml:")
    assert "secretcode" not in str(refusal.value)


@pytest.mark.parametrize(
    ("data", "fragment"),
    [
        pytest.param(None, "does not exist", id="no file"),
        pytest.param(b"x = ", "not valid TOML", id="cut off"),
        pytest.param(b"x = '\xff'", "not valid TOML", id="not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, data: bytes | None, fragment: str
) -> None:
    path = tmp_path / "some.toml"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UsageError, match=f"some.toml.*{fragment}"):
        read_toml(path)


def test_of_a_file_no_more_is_read_than_its_limit(tmp_path: Path) -> None:
    """A file without end, as someone might leave in a site's folder, fills no memory."""
    endless = tmp_path / "endless.json"
    with endless.open("wb") as file:
        file.truncate(1 << 40)  # sparse: a terabyte of nothing
    with pytest.raises(MessageError, match="limit 64"):
        read_json(Document, endless, limit=64)
    small = tmp_path / "small.json"
    small.write_bytes(b"{}")
    assert read_json(Document, small, limit=64) == Document()
