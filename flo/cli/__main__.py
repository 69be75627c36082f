"""The program ``flo``, also as ``python -m flo.cli``."""

import gc

from flo.cli import main


def start() -> None:
    """Run ``main`` in a process of its own."""
    gc.set_threshold(100_000)  # commands import while they run, which leaves hardly any garbage
    main()


if __name__ == "__main__":
    start()
