"""A power cut at any step: before or after a file is put in place or deleted, or an entry made."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from flo.audit.log import AuditLog


class PowerCutError(BaseException):
    """Nothing that would run after it runs, as after kill -9."""


def cut_off_at(step: int, patch: pytest.MonkeyPatch) -> None:
    """The power fails at this step: before or after a file is put in place, deleted, or entered."""
    steps = iter(range(1, 1000))

    def around(real: Callable[..., Any]) -> Callable[..., Any]:
        def doing(*arguments: Any, **named: Any) -> Any:
            if next(steps) == step:
                raise PowerCutError
            done = real(*arguments, **named)
            if next(steps) == step:
                raise PowerCutError
            return done

        return doing

    patch.setattr(os, "replace", around(os.replace))
    patch.setattr(os, "unlink", around(os.unlink))
    patch.setattr(AuditLog, "append", around(AuditLog.append))
