"""Attacks of a coordinator on an agent at work: requests that lie, replies that are none."""

from __future__ import annotations

import gzip
import pickle
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from flo.clients.records.approval import approval_path
from flo.keys.identity import Identity
from flo.storage.files import write_private
from flo.study.models import parameter_count
from tests.attacks.attack import Attack, Logged, answered
from tests.attacks.lying_coordinator import Said
from tests.attacks.stage import AGENT, SITE, Stage
from tests.partners import signed

_SECONDS = 20.0


def asked(**changes: Any) -> Callable[[Stage], Iterable[str]]:
    return lambda stage: [stage.site.asked(**changes)]


def asked_with(model: Callable[[int], Any], **changes: Any) -> Callable[[Stage], Iterable[str]]:
    """``model`` makes weights for the study's number of parameters."""
    return lambda s: [s.site.asked(model(parameter_count(s.site.study)), **changes)]


def about_an_edited_study(stage: Stage) -> Iterable[str]:
    edited = stage.site.study.with_mechanism(epsilon=0.95)
    assert edited.digest != stage.site.study.digest
    yield stage.site.asked(study=edited.digest)


def with_another_head_of_ours(stage: Stage) -> Iterable[str]:
    """Signed by a stranger, to make the site believe that it was rolled back."""
    heads = {"north": signed(Identity.new(), 99)}
    yield stage.site.asked(round=2, heads=heads)


def while_a_file_is_edited(name: str, old: bytes, new: bytes) -> Callable[[Stage], Iterable[str]]:
    """An honest request for a new round while a file of the site is not what was signed."""

    def attack(stage: Stage) -> Iterable[str]:
        home = stage.site.home
        path = approval_path(home, stage.site.study.digest)
        path = path if name == "approval" else home.directory / name
        good = path.read_bytes()
        assert old in good
        write_private(path, good.replace(old, new))
        try:
            yield stage.site.asked(round=2)
        finally:
            write_private(path, good)

    return attack


def told(**how: Any) -> Callable[[Stage], Iterable[str]]:
    """The honest request, carried otherwise."""
    return lambda stage: [stage.site.told(stage.site.request(), **how)]


def told_a_pickle(stage: Stage) -> Iterable[str]:
    yield stage.site.told(pickle.dumps({"kind": "release", "model": [0.0] * 6}))


def says(
    call: str, said: Said | Callable[[bytes], Said], refused: str
) -> Callable[[Stage], Iterable[str]]:
    """The agent meets an answer like this; ``refused``: what its log says then."""

    def attack(stage: Stage) -> Iterable[str]:
        log = stage.books[AGENT]
        before = len(log())
        with stage.liar.saying(call, said):
            noted = until(lambda: any(refused in line for line in log()[before:]))
        yield "refused" if noted else "accepted"

    return attack


def until(happened: Callable[[], bool]) -> bool:
    """Wait for it. False if it has not come in time."""
    end = time.monotonic() + _SECONDS
    while not happened():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def reply(name: str, call: str, said: Said, refused: str) -> Attack:
    return Attack(name, says(call, said, refused), "refused", Logged(AGENT, refused))


ATTACKS = (
    Attack(
        "a request for a study that is not approved",
        asked(study="a" * 64),
        "not-approved",
        answered("not-approved"),
    ),
    Attack(
        "a request for a study whose approval was withdrawn",
        lambda s: [s.site.asked(study=s.site.withdrawn.study.digest)],
        "not-approved",
        answered("not-approved"),
    ),
    Attack(
        "a request for an approved study after an edit",
        about_an_edited_study,
        "not-approved",
        answered("not-approved"),
    ),
    Attack(
        "another model for a round that was answered",
        asked_with(lambda count: np.full(count, 0.5)),
        "conflict",
        answered("conflict"),
    ),
    Attack(
        "a second run of one approval",
        asked(run="run-2"),
        "conflict",
        answered("conflict"),
    ),
    Attack(
        "a round behind the last",
        asked(round=4),
        "malformed",
        answered("malformed"),
    ),
    Attack(
        "a model of another shape",
        asked_with(lambda count: np.zeros(count - 1), round=2),
        "malformed",
        answered("malformed"),
    ),
    Attack(
        "a model that is not finite",
        asked_with(lambda count: np.full(count, np.nan), round=2),
        "no answer",
        Logged(SITE, "malformed-message"),
    ),
    Attack(
        "a hospital in the cohort that the study does not name",
        asked(cohort=("north", "stranger")),
        "malformed",
        answered("malformed"),
    ),
    Attack(
        "a cohort without the one that is asked",
        asked(cohort=("south", "west")),
        "malformed",
        answered("malformed"),
    ),
    Attack(
        "a cohort of one, to see its sum alone",
        asked(cohort=("north",), round=2),
        "malformed",
        answered("malformed"),
    ),
    Attack(
        "a ledger head of ours that another key signed",
        with_another_head_of_ours,
        "malformed",
        answered("malformed"),
    ),
    Attack(
        "a policy edited without signing",
        while_a_file_is_edited("policy.toml", b"# After", b"minimum_hospitals = 3\n# After"),
        "not-ready",
        answered("not-ready"),
    ),
    Attack(
        "an approval edited on the site's disk",
        while_a_file_is_edited("approval", b'"population":"main"', b'"population":"more"'),
        "not-approved",
        answered("not-approved"),
    ),
    Attack(
        "a pickle as a message",
        told_a_pickle,
        "no answer",
        Logged(SITE, "malformed-message"),
    ),
    Attack(
        "pickles as the parts of a message",
        told(spoil=lambda part: pickle.dumps([part])),
        "no answer",
        Logged(AGENT, "ignored: the message cannot be read"),
    ),
    Attack(
        "a message of many parts",
        told(records=3),
        "no answer",
        Logged(AGENT, "ignored: a message has more than 3 objects"),
    ),
    Attack(
        "a part of the answer that the answer does not have",
        told(wanted=("f" * 64,)),
        "no answer",
        Logged(AGENT, "the coordinator requests a part that this reply does not have"),
    ),
    reply(
        "a reply that is a pickle", "heads", Said(pickle.dumps(1)), "reply to heads: not valid JSON"
    ),
    reply(
        "a reply with NaN",
        "heads",
        Said(b'{"head":NaN}'),
        "reply to heads: not valid JSON (NaN is not allowed)",
    ),
    reply(
        "a reply with another schema",
        "heads",
        Said.document({"head": {"sequence": "many"}}),
        "the coordinator's view of our head:",
    ),
    reply(
        "a reply without end", "heads", Said(b"[", endless=True), "cannot be reached (ReadError)"
    ),
    reply(
        "a reply that is a decompression bomb",
        "heads",
        Said(gzip.compress(bytes(64 << 20)), headers={"content-encoding": "gzip"}),
        "cannot be reached (DecodingError)",
    ),
    reply(
        "a Fleet reply that is a decompression bomb",
        "activate-node",
        Said(gzip.compress(bytes(64 << 20)), headers={"content-encoding": "gzip"}),
        "was lost (DecodingError)",
    ),
)
