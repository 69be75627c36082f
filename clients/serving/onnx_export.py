"""A published network as ONNX, made by a process of its own: workers are confined, and torch's
exporter writes files.

    python -m flo.clients.serving.onnx_export CARD FINGERPRINT...

writes the ONNX model to its standard output. Every worker computes the card's golden cases with it
before it answers.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from flo.errors import UsageError
from flo.published.model_card import PublishedModel
from flo.published.onnx import to_onnx

_SECONDS = 300.0


def exported(card: Path, coordinators: Sequence[str]) -> bytes:
    """Return the network of a card as ONNX; b"" if the extra ``onnx`` is not installed."""
    command = [sys.executable, "-m", "flo.clients.serving.onnx_export", str(card), *coordinators]
    done = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False)
    return done.stdout if done.returncode == 0 else b""


def main() -> None:
    """Write the model; exit with 2 if it cannot be exported here."""
    model = PublishedModel.open(Path(sys.argv[1]), *sys.argv[2:])
    try:
        sys.stdout.buffer.write(to_onnx(model))
    except UsageError as error:
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
