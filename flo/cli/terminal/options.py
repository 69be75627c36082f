"""Options and arguments that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SiteFolder = Annotated[Path, typer.Option(envvar="FLO_SITE_HOME", help="The site's folder.")]
SITE_FOLDER = Path("site")
OfPopulation = Annotated[
    str | None, typer.Option("--population", help="Population whose patients take part.")
]
CoordinatorFolder = Annotated[
    Path, typer.Option(envvar="FLO_COORDINATOR_HOME", help="The coordinator's folder.")
]
COORDINATOR_FOLDER = Path("coordinator")
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Run all checks and show the effect; change nothing.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]
Verbose = Annotated[int, typer.Option("-v", count=True, help="Show more log lines on the screen.")]
Quiet = Annotated[bool, typer.Option("-q", help="Show only errors on the screen.")]
KeyStoreKind = Annotated[
    str,
    typer.Option(help="Key store that seals the keys: file, passphrase, or the ARN of a KMS key."),
]
KeyStorePath = Annotated[
    Path | None, typer.Option(help="The key store's file, if it is outside the folder.")
]
ServiceUser = Annotated[str, typer.Option(help="The user that owns the folder and runs FLO.")]
BackupOut = Annotated[Path, typer.Argument(help="The file to write.")]
BackupFile = Annotated[Path, typer.Argument(help="The file that `backup` wrote.")]
StudyFile = Annotated[Path, typer.Argument(help="A study in TOML.")]
EncodersFolder = Annotated[
    Path | None,
    typer.Option(
        "--encoders",
        help="Folder with the study's encoders, DIGEST.onnx, and frozen numbers, "
        "DIGEST.safetensors.",
    ),
]
