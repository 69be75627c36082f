"""A front does not go on without a task that keeps it current."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

_RUN = """
import asyncio
from flo.clients.serving.front import _end_if_failed

async def keep_current():
    {body}

async def main():
    task = asyncio.create_task(keep_current())
    task.add_done_callback(_end_if_failed)
    await asyncio.sleep(0.2)
    print("still answering")

asyncio.run(main())
"""


@pytest.mark.processes
@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("raise ValueError('71 years')", -signal.SIGTERM, ""),
        ("return", 0, "still answering\n"),
    ],
)
def test_a_failed_task_ends_the_front_and_no_value_is_logged(
    body: str, code: int, said: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _RUN.format(body=body)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (code, said)
    assert "71 years" not in done.stderr
