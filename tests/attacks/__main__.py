"""The table of attacks as Markdown, for docs/threat-model.md: ``python -m tests.attacks``."""

from __future__ import annotations

import sys

from tests.attacks.attack import table
from tests.attacks.attacks import ATTACKS

if __name__ == "__main__":
    sys.stdout.write(table(ATTACKS))
