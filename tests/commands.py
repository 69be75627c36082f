"""One ``flo`` command run to its end: in this process, or in one of its own.

``flo`` calls ``flo.cli.main`` as the installed program does, with its own arguments and standard
streams; starting Python and importing FLO again would take longer than most commands. Commands that
start processes or serve, and tests about a whole process, use ``flo_process``.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

from flo.cli import main
from flo.cli.terminal import output
from tools.json_schemas import ENDLESS

Ended = subprocess.CompletedProcess[str]


def flo(*arguments: str | Path, typed: str = "") -> Ended:
    """Run one command in this process. ``typed`` is on its standard input, which is no terminal."""
    command = ["flo", *map(str, arguments)]
    assert " ".join(command[1:3]) not in ENDLESS, "it configures logging for its whole process"
    given = io.TextIOWrapper(io.BytesIO(typed.encode()), encoding="utf-8")
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    code = 0
    streams = mock.patch.multiple(sys, argv=command, stdin=given, stdout=out, stderr=err)
    fresh_screen = mock.patch.object(output, "_words_to_error", False)
    with streams, fresh_screen, mock.patch.dict(os.environ):
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    return Ended(command, code, _written(out), _written(err))


def flo_process(*arguments: str | Path, seconds: float = 60, typed: str = "") -> Ended:
    """Run one command in a process of its own, for at most ``seconds``."""
    return subprocess.run(
        [sys.executable, "-m", "flo.cli", *map(str, arguments)],
        input=typed,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def _written(stream: io.TextIOWrapper) -> str:
    stream.seek(0)
    return stream.read()
