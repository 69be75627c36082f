"""Logs: JSON lines in UTC, and never the text of an exception."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flo.host.logs import rotate, start_logging

NAMES = ("flo", "flwr", "uvicorn", "uvicorn.error", "uvicorn.access")


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[Path]:
    """A started log; every logger is as it was afterwards."""
    before = {
        name: (list(logger.handlers), logger.level, logger.propagate)
        for name in NAMES
        for logger in [logging.getLogger(name)]
    }
    path = tmp_path / "log" / "agent.jsonl"
    start_logging(path, verbosity=-1)
    yield path
    for handler in logging.getLogger("flo").handlers:
        handler.close()
    for name, (handlers, level, propagate) in before.items():
        logger = logging.getLogger(name)
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_an_event_is_one_json_object_in_utc(log_file: Path) -> None:
    logging.getLogger("flo.clients.agent").info(
        "two\nlines", extra={"fields": {"code": "not-ready", "round": 3}}
    )
    (entry,) = lines(log_file)
    time = datetime.fromisoformat(entry.pop("time"))
    assert time.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - time) < timedelta(minutes=1)
    assert entry == {
        "level": "info",
        "logger": "flo.clients.agent",
        "event": "two\nlines",
        "code": "not-ready",
        "round": 3,
    }


def test_the_text_of_an_exception_never_reaches_the_log(log_file: Path) -> None:
    try:
        try:
            float("secretcode")
        except ValueError as error:
            raise RuntimeError("patient secretcode") from error
    except RuntimeError:
        logging.getLogger("flo.clients.data_process.child").exception("the child could not answer")
    assert "secretcode" not in log_file.read_text()
    (entry,) = lines(log_file)
    assert entry["exception"] == "RuntimeError"
    assert entry["at"].startswith(f"{__name__}:")


def test_an_exception_without_a_traceback_is_logged_by_its_type(log_file: Path) -> None:
    logging.getLogger("flo").error("no", exc_info=ValueError("secretcode"))
    assert "secretcode" not in log_file.read_text()
    assert lines(log_file)[0]["exception"] == "ValueError"


def test_other_libraries_are_logged_from_warnings_up_and_never_shown(
    log_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logging.getLogger("flwr").info("chatter")
    logging.getLogger("flwr").warning("trouble")
    assert [entry["event"] for entry in lines(log_file)] == ["trouble"]
    assert capsys.readouterr().err == ""


def test_starting_again_does_not_write_lines_twice(log_file: Path) -> None:
    first = list(logging.getLogger("flo").handlers)
    start_logging(log_file)
    for handler in first:
        handler.close()
    logging.getLogger("flo").debug("once")
    assert len(lines(log_file)) == 1


def test_what_another_process_appends_is_rotated_under_it(tmp_path: Path) -> None:
    path = tmp_path / "superexec.log"
    with path.open("ab", buffering=0) as process:
        process.write(b"a" * 100)
        rotate(path, 100)
        assert not path.with_name("superexec.log.1").exists()
        process.write(b"b")
        rotate(path, 100)
        process.write(b"c")
    assert path.with_name("superexec.log.1").read_bytes() == b"a" * 100 + b"b"
    assert path.read_bytes() == b"c"
    rotate(tmp_path / "none.log")
