"""``python -m flo.cli`` is ``flo``."""

from flo.cli import main

main()
