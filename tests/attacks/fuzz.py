"""The fuzz loop: mutate, read, and collect whatever is not an expected refusal, by where it is."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType

from flo.errors import FloError
from tests.attacks.mutations import mutated

MOST_SECONDS = 20.0  # for one message; each takes milliseconds
_HERE = Path(__file__).parent


class Hang(BaseException):
    """Not an Exception, so that no handler of last resort takes it for an ordinary failure."""


class Accepted(AssertionError):
    """A changed message was taken for the good one."""


class Changed(AssertionError):
    """A message was refused and yet something is not as before."""


def nothing() -> object:
    """The state of what only reads."""
    return None


def as_it_is(data: bytes, random: Random) -> bytes:
    return data


@dataclass(frozen=True)
class Target:
    """Whoever reads messages from others.

    ``read`` raises a FloError for what it refuses. ``mend``: whoever holds the key may sign what
    was changed. ``state``: what a refusal must not change.
    """

    name: str
    seeds: Sequence[bytes]
    read: Callable[[bytes], object]
    mend: Callable[[bytes, Random], bytes] = as_it_is
    state: Callable[[], object] = nothing


@dataclass
class Finding:
    """One way to fail, and the seeds that lead there."""

    what: str
    data: bytes
    seeds: list[str] = field(default_factory=list)


def findings(target: Target, count: int) -> dict[str, Finding]:
    """Place of the failure -> what failed there, after ``count`` mutations."""
    found: dict[str, Finding] = {}
    for number in range(count):
        seed = f"{target.name}/{number}"
        random = Random(seed)
        data = mutated(random.choice(target.seeds), random)
        if random.random() < 0.5:
            data = target.mend(data, random)
        before = target.state()
        try:
            with _limited():
                target.read(data)
        except FloError:
            if target.state() != before:
                _add(found, seed, data, Changed("refused, and yet something changed"))
        except (Exception, Hang) as error:
            _add(found, seed, data, error)
    return found


def _add(found: dict[str, Finding], seed: str, data: bytes, error: BaseException) -> None:
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if "site-packages" not in f.filename
    ]
    ours = [f for f in frames if _HERE not in Path(f.filename).parents] or frames
    place = f"{ours[-1].filename}:{ours[-1].lineno}" if ours else "state"
    key = f"{type(error).__name__} at {place}"
    what = f"{key}: {str(error)[:200]}"
    found.setdefault(key, Finding(what, data)).seeds.append(seed)


@contextmanager
def _limited() -> Iterator[None]:
    """At most MOST_SECONDS of work."""

    def over(number: int, frame: FrameType | None) -> None:
        raise Hang(f"more than {MOST_SECONDS} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, MOST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def report(found: dict[str, Finding], folder: Path) -> str:
    """One paragraph for each finding; what led there is kept in ``folder``, as keys are new."""
    lines = []
    for number, finding in enumerate(found.values()):
        path = folder / f"finding-{number}.bin"
        path.write_bytes(finding.data)
        seeds = f"{len(finding.seeds)} seeds, the first {finding.seeds[0]!r}"
        lines.append(f"{finding.what}\n    {seeds}; the message is in {path}")
    return "\n".join(lines)
