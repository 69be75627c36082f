"""A whole run in memory: hospitals that answer as a site does, or as told, and what was seen of it.

Run keys, vouchers, refusals and masks are the real ones of ``flo.clients``. The numbers under the
masks are made up by ``numbers``, so that a test knows the true sum of every attempt.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, cast
from unittest import mock

import numpy as np

from flo.arrays import Integers
from flo.clients.agent.masking import attempt_at, mask
from flo.clients.agent.partners import PartnerChecks, PartnerRefused
from flo.clients.agent.run_keys import RunKeys
from flo.documents import canonical
from flo.errors import TrustError
from flo.keys.claims import HeadAttestation, LedgerHead, RunKey
from flo.keys.identity import verify
from flo.privacy.accounting.plan import Plan
from flo.privacy.ledger.ledger import Ledger
from flo.privacy.mechanisms.mechanisms import GRID
from flo.privacy.secure_sum.masking import cohort_digest
from flo.protocol.messages import (
    Reply,
    ReplyHeader,
    Request,
    RequestHeader,
    Values,
    decode_request,
    encode_reply,
)
from flo.server.rounds import checkpoint
from flo.server.rounds.continuing import EarlierModel
from flo.server.rounds.loop import run_study
from flo.server.rounds.state import RunState
from flo.study.document import Study
from tests.builders import HOSPITALS, WHITENED, study_document
from tests.partners import partner, signed
from tests.secure_sums import advance

RUN = "run-1"
NOTHING = np.zeros(0, dtype=np.int64)
MODES: dict[str, dict[str, Any]] = {
    "masking off": {"masking": "off"},
    "local noise, masked": {"masking": "on"},
    "distributed noise": {"masking": "on", "noise": "distributed", "dropouts": 1},
}
# Its first round is no training, so most tests of rounds do not apply.
WHITENED_MODE = {"whitened": {**MODES["distributed noise"], **WHITENED}}
MASKED = [mode for mode in MODES if mode != "masking off"]
_EPOCHS = itertools.count(1)

Attempt = tuple[str, int, int, tuple[str, ...]]  # purpose, round, attempt, cohort


def company_study(
    mode: str = "masking off", hospitals: tuple[str, ...] = HOSPITALS, **mechanism: Any
) -> Study:
    """The small study among hospitals with known keys; each of ``MODES`` has a floor of 2."""
    named = [{"id": name, "declared_size": 40} for name in hospitals]
    version = mechanism.pop("schema_version", 3)
    study = Study.model_validate(study_document(hospitals=named, schema_version=version))
    study = study.with_fingerprints({name: partner(name).fingerprint for name in hospitals})
    return study.with_mechanism(**{**(MODES | WHITENED_MODE)[mode], **mechanism})


def numbers(study: Study, hospital: str, purpose: str, round_: int, attempt: int) -> Integers:
    """What a hospital releases before it is masked, made up.

    Distributed noise is drawn anew for every attempt; with local noise a retry repeats the bits.
    """
    drawn = attempt if study.mechanism.noise == "distributed" else 1
    seed = canonical.digest(canonical.encode([hospital, purpose, round_, drawn]))
    low, high = (1, 5) if purpose == "evaluation" else (-30, 30)
    length = Plan.of(study).purpose(purpose).mechanism.length
    return np.random.default_rng(int(seed, 16)).integers(low * GRID, high * GRID, length)


def model_after(study: Study, attempts: list[Attempt]) -> RunState:
    """Where these attempts lead if each sum is taken in the clear: the oracle for masked runs."""
    clear = study.with_mechanism(noise="local", masking="off")
    state = RunState.start(clear)
    for purpose, round_, attempt, cohort in attempts:
        state = advance(
            clear, state, {h: numbers(study, h, purpose, round_, attempt) for h in cohort}
        )
    return state


@cache
def _head(hospital: str, height: int) -> LedgerHead:
    return signed(partner(hospital), height)


def _patched_verify() -> Any:
    """A good signature is checked once in these tests: checking takes most of a run's time."""
    return mock.patch("flo.keys.claims.verify", _checked_once)


_checked_once = cache(verify)  # what raises is not remembered


class Clock:
    """Stands in for ``time``: sleeping takes no time."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Witnesses:
    """What a site's ledger remembers of partners and of itself, in memory."""

    def __init__(self) -> None:
        self.height = self.released = 1
        self._heads: dict[str, LedgerHead] = {}
        self._keys: dict[tuple[str, str, str], RunKey] = {}

    def witness(self, head: LedgerHead) -> None:
        kept = self._heads.setdefault(head.fingerprint, head)
        if head.sequence > kept.sequence:
            self._heads[head.fingerprint] = head

    def witnessed(self) -> dict[str, LedgerHead]:
        return dict(self._heads)

    def last_release(self, study: str) -> tuple[int, str | None]:
        return self.released, None

    def release(self) -> None:
        """One more row, with a release in it."""
        self.height += 1
        self.released = self.height

    def find_release(self, request: str) -> None:
        """It knows of no release: a late join deals again."""

    def holds(self, head: LedgerHead) -> bool:
        return False  # it keeps no rows, so every signature is checked

    def confirm(self, seen: LedgerHead) -> None:
        if seen.sequence > self.height:
            raise TrustError("rolled back")

    def see_run_key(self, study: str, run: str, hospital: str, key: RunKey) -> None:
        kept = self._keys.setdefault((study, run, hospital), key)
        if key.key != kept.key and key.epoch <= kept.epoch:
            raise TrustError("an older run key")
        self._keys[study, run, hospital] = key


class Site:
    """One hospital as ``flo.clients.agent.handler`` answers for it."""

    def __init__(self, study: Study, hospital: str) -> None:
        self.study, self.id, self.identity = study, hospital, partner(hospital)
        self.ledger, self._answered = Witnesses(), dict[tuple[str, int, int], bytes]()
        self.restart()

    def restart(self) -> None:
        """Run keys are in memory only; ledger and kept replies are not."""
        self.keys = RunKeys(self.identity, lambda: next(_EPOCHS))
        ledger = cast(Ledger, self.ledger)
        self._partners = PartnerChecks(self.id, self.identity, ledger, self.keys)

    def answer(self, request: Request) -> bytes:
        header = request.header
        try:
            self._partners.witness(header, self.study)
            match header.kind:
                case "join":
                    key, vouchers = self._partners.join(header, self.study)
                    dealt = self._partners.deal(header, self.study)
                    return self.reply(header, "joined", key=key, vouchers=vouchers, deal=dealt)
                case "release":
                    return self._release(header)
                case "sign":
                    signature = self._partners.sign(header, self.study)
                    return self.reply(header, "signed", signature=signature)
                case "reveal":
                    shares = self._partners.reveal(header, self.study)
                    return self.reply(header, "revealed", shares=shares)
                case "finish":
                    return self.reply(header, "settled")
        except PartnerRefused as refusal:
            return self.refuse(header, refusal.code, refusal.key)

    def refuse(self, header: RequestHeader, code: str, key: RunKey | None = None) -> bytes:
        return self.reply(header, "refused", code=code, key=key)

    def reply(
        self, header: RequestHeader, kind: str, values: Values = NOTHING, **facts: Any
    ) -> bytes:
        head = _head(self.id, self.ledger.height)
        made = ReplyHeader.model_validate(reply_facts(header, kind, self.id, head, values) | facts)
        return encode_reply(Reply(made, values))

    def masked(self, header: RequestHeader, values: Integers) -> Values:
        own = self._partners.admit(header, self.study)
        ready = self._partners.prepare(header, self.study, own)
        masked = mask(self.study, header, own, values, ready)
        if ready is not None:
            own.dealing.uploaded(header, attempt_at(self.study, header, len(values)), ready)
        return masked

    def _release(self, header: RequestHeader) -> bytes:
        asked, cohort = (header.purpose, header.round, header.attempt), cohort_of(header)
        if asked not in self._answered:
            values = self.masked(header, numbers(self.study, self.id, *asked))
            self.ledger.release()
            dealt = self._partners.deal(header, self.study)
            self._answered[asked] = self.reply(header, "release", values, cohort=cohort, deal=dealt)
        if f'"cohort":"{cohort}"'.encode() not in self._answered[asked]:
            raise PartnerRefused("conflict", "this attempt was answered for another cohort")
        return self._answered[asked]


def cohort_of(header: RequestHeader) -> str:
    return cohort_digest(header.members())


def reply_facts(
    header: RequestHeader, kind: str, hospital: str, head: LedgerHead, values: Values
) -> dict[str, Any]:
    """The header of a reply that fits its request, as a document."""
    ring = 8 * values.itemsize if values.dtype.kind == "u" else 0
    asked = header.model_dump(include={"study", "run", "purpose", "round", "attempt", "model"})
    return {"kind": kind, "hospital": hospital, "head": head, "ring": ring, **asked}


# -- how else a hospital may answer ------------------------------------------------------------

Answer = Callable[[Site, Request], bytes | None]
When = Callable[[RequestHeader], bool]


def honest(site: Site, request: Request) -> bytes | None:
    return site.answer(request)


def silent(site: Site, request: Request) -> bytes | None:
    return None


def refusing(code: str) -> Answer:
    return lambda site, request: site.refuse(request.header, code)


def only(when: When, answer: Answer) -> Answer:
    """``answer`` to some requests, the honest answer to all others."""
    return lambda site, request: (answer if when(request.header) else honest)(site, request)


def training(round_: int, *attempts: int) -> When:
    """A release of this training round, in one of these attempts or in any."""
    return lambda header: (
        (header.kind, header.purpose, header.round) == ("release", "training", round_)
        and (not attempts or header.attempt in attempts)
    )


def releases(header: RequestHeader) -> bool:
    return header.kind == "release"


def joins(header: RequestHeader) -> bool:
    return header.kind == "join"


class Killed(Exception):
    """The coordinator's process died here."""


@dataclass
class Stage:
    """Exchange and store of one run. ``history``: saved states and requests, in their order.

    ``is_away``: whether a hospital's agent is not connected. ``after_round``: called with the
    number of rounds that counted. ``killed_after``: the coordinator dies after so many saves, or
    questions whose answers it then never sees.
    """

    study: Study
    answers: dict[str, Answer] = field(default_factory=dict)
    is_away: Callable[[str], bool] = lambda hospital: False
    after_round: Callable[[int], None] = lambda rounds: None
    stop_after_rounds: int = 1_000_000
    killed_after: tuple[str, int] | None = None
    earlier: EarlierModel | None = None
    clock: Clock = field(default_factory=Clock)
    history: list[bytes | Request] = field(default_factory=list)
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    replies: list[tuple[str, bytes]] = field(default_factory=list)
    end: str = ""

    def __post_init__(self) -> None:
        self.sites = {h.id: Site(self.study, h.id) for h in self.study.hospitals}
        self._heads: dict[str, LedgerHead] = {}
        self._done: Counter[str] = Counter()
        self._reconnected: set[str] = set()

    def run(self, state: RunState | None = None) -> RunState:
        clock, signatures = mock.patch("flo.server.rounds.loop.time", self.clock), _patched_verify()
        with clock, signatures:
            start = state or RunState.start(self.study, self.earlier)
            final, self.end = run_study(self.study, RUN, start, self, self)
        return final

    def run_again(self) -> RunState:
        """After the coordinator was killed: from its last checkpoint, with a new exchange."""
        self.killed_after = None
        self._reconnected.clear()
        return self.run(checkpoint.from_bytes(self.saves[-1]) if self.saves else None)

    def restart(self, hospital: str) -> None:
        """Its agent stops and starts again, and connects anew."""
        self.sites[hospital].restart()
        self._reconnected.add(hospital)

    # -- Exchange ----------------------------------------------------------------------------------

    def ask(
        self, heads: Mapping[str, bytes], body: memoryview, deadline_seconds: float
    ) -> Iterator[tuple[str, bytes]]:
        replies: dict[str, bytes] = {}
        requests = {name: decode_request(b"".join((head, body))) for name, head in heads.items()}
        self.history.append(_told_together(requests))
        for hospital, asked in requests.items():
            reply = self.answers.get(hospital, honest)(self.sites[hospital], asked)
            if reply is not None:
                replies[hospital] = reply
                self._reconnected.discard(hospital)
        self.replies += replies.items()
        self._perhaps_die("ask")
        yield from replies.items()

    def connected(self) -> Collection[str]:
        return {hospital for hospital in self.sites if not self.is_away(hospital)}

    def reconnected(self) -> Collection[str]:
        return set(self._reconnected)

    # -- RunStore ----------------------------------------------------------------------------------

    def save(self, state: RunState) -> None:
        self.history.append(checkpoint.to_bytes(state))
        self._perhaps_die("save")

    def save_round(self, state: RunState, **facts: object) -> None:
        self.history.append(checkpoint.to_bytes(state))
        self.event("round", **facts)
        self._perhaps_die("save")

    def heads(self) -> dict[str, LedgerHead]:
        return dict(self._heads)

    def keep_head(self, hospital: str, head: LedgerHead) -> None:
        head.check(self.study.hospital(hospital).fingerprint)
        if hospital not in self._heads or head.sequence > self._heads[hospital].sequence:
            self._heads[hospital] = head

    def event(self, kind: str, **facts: object) -> None:
        self.events.append((kind, facts))
        if kind == "round":
            self.after_round(len(self.of_kind("round")))

    def stop_requested(self) -> bool:
        return len(self.of_kind("round")) >= self.stop_after_rounds

    def _perhaps_die(self, kind: str) -> None:
        self._done[kind] += 1
        if self.killed_after == (kind, self._done[kind]):
            raise Killed

    # -- what was seen -----------------------------------------------------------------------------

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        return [facts for name, facts in self.events if name == kind]

    @property
    def saves(self) -> list[bytes]:
        return [entry for entry in self.history if isinstance(entry, bytes)]

    @property
    def requests(self) -> list[RequestHeader]:
        return [entry.header for entry in self.history if isinstance(entry, Request)]

    @property
    def releases(self) -> list[RequestHeader]:
        return [header for header in self.requests if header.kind == "release"]

    @property
    def attempts(self) -> list[Attempt]:
        return [(h.purpose, h.round, h.attempt, h.cohort) for h in self.releases]

    @property
    def counted(self) -> list[Attempt]:
        """The attempts that moved the model: of each round the last, with whom it counted."""
        last = {(h.purpose, h.round): h.attempt for h in self.releases}
        return [
            (facts["phase"], facts["round"], attempt, tuple(facts["cohort"]))
            for facts in self.of_kind("round")
            for attempt in [last[facts["phase"], facts["round"]]]
        ]

    def joins_of(self, hospital: str) -> int:
        """How often a hospital was called to join."""
        return sum(header.kind == "join" and hospital in header.cohort for header in self.requests)


def _told_together(requests: Mapping[str, Request]) -> Request:
    """The request, with the vouchers of all: each hospital is told its own one."""
    vouchers: dict[str, HeadAttestation] = {}
    for hospital, asked in requests.items():
        assert set(requests) <= set(asked.header.cohort)
        assert set(asked.header.vouchers) <= {hospital}
        vouchers |= asked.header.vouchers
    one = next(iter(requests.values()))
    return replace(one, header=one.header.model_copy(update={"vouchers": vouchers}))


def same_model(one: RunState, other: RunState) -> bool:
    """Bit for bit: the model, and all that the next step would start from."""
    return all(
        getattr(one, name).tobytes() == getattr(other, name).tobytes()
        for name in ("model", "weights", "velocity", "tail_sum")
    )


def stage(mode: str, answers: dict[str, Answer] | None = None, **mechanism: Any) -> Stage:
    return Stage(company_study(mode, **mechanism), answers or {})


def restarts_before_it_answers(run: Stage) -> Answer:
    def answer(site: Site, request: Request) -> bytes:
        run.restart(site.id)
        return site.answer(request)

    return answer
