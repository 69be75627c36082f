"""Options and arguments that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SiteFolder = Annotated[Path, typer.Option(envvar="FLO_SITE_HOME", help="The site's folder.")]
SITE_FOLDER = Path("site")
CoordinatorFolder = Annotated[
    Path, typer.Option(envvar="FLO_COORDINATOR_HOME", help="The coordinator's folder.")
]
COORDINATOR_FOLDER = Path("coordinator")
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check all of it, and say what would happen; do nothing.")
]
ServiceUser = Annotated[str, typer.Option(help="The user that owns the folder and runs FLO.")]
BackupOut = Annotated[Path, typer.Argument(help="The file to write.")]
BackupFile = Annotated[Path, typer.Argument(help="What `backup` wrote.")]
StudyFile = Annotated[Path, typer.Argument(help="A study in TOML.")]
