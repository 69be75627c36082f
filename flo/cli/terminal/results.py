"""Results of commands, as ``--json`` writes them; docs/json.md is generated from this module.

Results hold names, digests and numbers only: no secret (except the link of
``flo coordinator console``) and no patient data. Paths are as the user gave them. Times are
ISO 8601 in UTC. A change in a field's meaning raises ``schema_version``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from flo.errors import EXIT_OK, EXIT_REFUSED


@dataclass(frozen=True)
class CommandResult:
    """Fields that every command's result has."""

    schema_version: int = field(default=1, kw_only=True)

    def ends_in(self) -> int:
        """Return the command's exit code."""
        return 0


@dataclass(frozen=True)
class RefusalResult(CommandResult):
    """Result of a command that was refused or failed; ``exit_code`` as in README."""

    error: str
    what_to_do: str
    exit_code: int


@dataclass(frozen=True)
class FileWrittenResult(CommandResult):
    """``file``: the written file."""

    file: str


@dataclass(frozen=True)
class BackupWrittenResult(CommandResult):
    """``files``: number of files in it. ``also_back_up``: key file that is not in it, if any."""

    file: str
    files: int
    also_back_up: str | None
    schema_version: int = field(default=2, kw_only=True)


@dataclass(frozen=True)
class UnitResult(CommandResult):
    """``unit``: the text of a systemd unit."""

    unit: str


@dataclass(frozen=True)
class CheckedResult(CommandResult):
    """Result of ``flo doctor``, which exits with 3 if no round could run.

    ``findings``: each inspected item, its ``state`` (ok, warning, broken), the finding and the
    fix. ``could_run``: true if no finding is broken.
    """

    folder: str
    could_run: bool
    findings: list[DoctorFindingLine]
    schema_version: int = field(default=2, kw_only=True)

    def ends_in(self) -> int:
        """Return 0, or 3 if no round could run."""
        return EXIT_OK if self.could_run else EXIT_REFUSED


@dataclass(frozen=True)
class DoctorFindingLine:
    """``subject``: the inspected item. ``message``: the finding. ``fix``: empty if ok."""

    subject: str
    state: str
    message: str
    fix: str
