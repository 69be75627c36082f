"""The rooms are where they should be, and opening the door loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.paths import ROOT

HEAVY = ("torch", "flwr", "pandas", "pydantic", "dp_accounting", "httpx", "fastapi")


@pytest.mark.parametrize("room", ["server", "clients", "privacy", "infra", "examples"])
def test_each_room_is_a_relative_link_to_its_top_level_folder(room: str) -> None:
    link = ROOT / "flo" / room
    assert link.is_symlink()
    assert str(link.readlink()) == f"../{room}"
    assert link.resolve() == (ROOT / room).resolve()
    assert link.is_dir()


@pytest.mark.processes
@pytest.mark.parametrize(
    "code",
    [
        pytest.param("import flo", id="import flo"),
        pytest.param(
            "sys.argv = ['flo', '--help']\n"
            "from flo.cli import main\n"
            "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code",
            id="flo --help",
        ),
    ],
)
def test_opening_the_door_loads_nothing_heavy(code: str) -> None:
    script = f"import sys\n{code}\nprint('LOADED', *sorted({set(HEAVY)!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1].strip() == "LOADED"


@pytest.mark.processes
def test_a_training_step_loads_no_library_that_it_does_not_need() -> None:
    """sympy takes half a second, which every study's data process would pay; Opacus two."""
    script = """
import sys
import numpy as np
from torch import nn
from flo.privacy.gradients.batches import Patients
from flo.privacy.gradients.bookkeeping import binary_loss
from flo.privacy.gradients.step import PrivateStep
x = np.linspace(-1, 1, 16).reshape(8, 2)
module = nn.Sequential(nn.Linear(2, 1))
step = PrivateStep(module, binary_loss, 0.5, examples=x, batch=8, most_records=1)
found = step.clipped_sum(np.zeros(3, np.float32), step.batches(
    Patients(x, np.arange(8) % 2.0, np.arange(8), 8)))
print(step.way.name, found.shape, *sorted({"sympy", "opacus", "dp_accounting"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[0] == "book-keeping (3,)"
