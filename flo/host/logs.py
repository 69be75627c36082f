"""Logs: one JSON object a line, UTC, rotated; short lines in local time on the screen.

This module handles no patients or secrets; callers log only public codes, digests and counts.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flo.documents.text import escape_for_terminal

_ROTATE_BYTES, _KEEP_FILES = 5 << 20, 5


class JsonFormatter(logging.Formatter):
    """JSON with time, level, logger, event, and the ``extra={"fields": {...}}`` of the call."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a line of JSON, with an exception's type and place: its text may quote a value."""
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[0] is not None:
            entry["exception"] = record.exc_info[0].__name__
            traceback = record.exc_info[2]
            entry["at"] = _last_line(traceback)
        return json.dumps(entry, ensure_ascii=False)


class ScreenFormatter(logging.Formatter):
    """Local time and the event; for an exception only its type and place."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one event without control characters, which a terminal would obey."""
        return escape_for_terminal(super().format(record))

    def formatException(self, ei: Any) -> str:
        """Return type and place only: the text may quote a value."""
        return f"{ei[0].__name__} at {_last_line(ei[2])}"


def _last_line(traceback: object) -> str:
    place = ""
    while traceback is not None:
        frame = traceback.tb_frame  # type: ignore[attr-defined]
        place = f"{frame.f_globals.get('__name__')}:{traceback.tb_lineno}"  # type: ignore[attr-defined]
        traceback = traceback.tb_next  # type: ignore[attr-defined]
    return place


def rotate(path: Path, most: int = _ROTATE_BYTES) -> None:
    """Move the content of ``path`` to ``path.1`` once it has ``most`` bytes.

    Another process may go on writing to ``path`` if it opened the file for appending.
    """
    if path.is_file() and path.stat().st_size > most:
        shutil.copyfile(path, path.with_name(f"{path.name}.1"))
        os.truncate(path, 0)


def start_logging(path: Path, *, verbosity: int = 0) -> None:
    """Log FLO's events to ``path`` (JSON, rotated) and to the screen.

    ``verbosity``: -1 errors only on screen, 0 information, 1 or more everything.
    Third-party loggers (Flower, uvicorn) go to the file from warnings up, never to the screen.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = logging.handlers.RotatingFileHandler(
        path, maxBytes=_ROTATE_BYTES, backupCount=_KEEP_FILES, encoding="utf-8"
    )
    file.setFormatter(JsonFormatter())
    screen = logging.StreamHandler()
    screen.setFormatter(ScreenFormatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    screen.setLevel({-1: logging.ERROR, 0: logging.INFO}.get(verbosity, logging.DEBUG))
    own = logging.getLogger("flo")
    own.handlers[:] = [file, screen]
    own.setLevel(logging.DEBUG)
    own.propagate = False
    for name in ("flwr", "uvicorn", "uvicorn.error", "uvicorn.access"):
        foreign = logging.getLogger(name)
        foreign.handlers[:] = [file]
        foreign.setLevel(logging.WARNING)
        foreign.propagate = False
