"""Which versions answer for each model that ``serve.toml`` names, now.

1. the site's files say which version is to answer, and which are compared with it
   (``flo.clients.serving.decided``);
2. a version answers once every worker has loaded it and computed its golden cases. Until then
   the one before answers, unless it was withdrawn;
3. before each answer, and again before it is sent, the file of decisions is looked at. After a
   change nothing is answered until it was read;
4. all else (policy, rule, mapping, comparison, opt-outs) is read again every second;
5. versions that are compared are loaded as the others, and asked with the one that answers;
6. the version that answers is watched (``flo.clients.serving.watching``).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flo.clients.comparison.terms import Comparison
from flo.clients.home.site_home import SiteHome
from flo.clients.patients.opt_outs import FILE as OPT_OUTS
from flo.clients.prediction import versions
from flo.clients.records.finished_model import FOLDER
from flo.clients.serving import cds_hooks
from flo.clients.serving.comparing import Comparing
from flo.clients.serving.decided import Decided, Deciding, Found, templates
from flo.clients.serving.pool import Pool
from flo.clients.serving.service import ServedVersion
from flo.clients.serving.settings import ServeConfig
from flo.clients.serving.several import Several, place_of
from flo.clients.serving.watching import Watching
from flo.clients.watching.kept import Watched
from flo.errors import FloError, NetworkError, RefusedError
from flo.keys.identity import Identity
from flo.published.model_card import FINISHED
from flo.study.document import Study

log = logging.getLogger("flo.clients.serving.answering")

AGAIN_SECONDS, _JUDGE_SECONDS = 1.0, 60.0
_PATIENCE_SECONDS, _AGAIN_SOON_SECONDS = 15.0, 0.1


@dataclass(frozen=True)
class SiteAtWork(SiteHome):
    """A site whose key was opened once: answers do not wait for a key service."""

    identity: Identity | None = field(default=None, compare=False, repr=False)

    def open_identity(self) -> Identity:
        """Return the key that was opened at the start."""
        return self.identity or super().open_identity()


@dataclass(frozen=True)
class Ready:
    """A version that answers. ``digest``: of it, as bytes; ``study``: of its published model.

    ``no_reasons``: why it gives no reasons; "" if it does. ``watched``: what monitors need.
    """

    version: ServedVersion
    digest: bytes
    study: Study
    title: str
    since: str
    no_reasons: str
    watched: Watched


@dataclass(frozen=True)
class Asked:
    """The versions that each question is asked of: the one that answers, and those that are
    compared with it. ``shares``: in percent, of each but the first. ``packed``: as a worker reads
    it. ``comparison``: None of one version alone.
    """

    ready: tuple[Ready, ...]
    shares: tuple[int, ...]
    packed: bytes
    comparison: Comparison | None

    def shows(self, ready: Ready) -> bool:
        """Return whether answers of a version are shown to anybody."""
        several = zip(self.ready, (100, *self.shares), strict=True)
        return any(one is ready and share for one, share in several)

    def drawn(self, patient: str) -> int:
        """Return the place of the version whose answers a patient gets."""
        assert self.comparison is not None
        studies = [one.study.digest for one in self.ready]
        return place_of(self.comparison.id, patient, studies, self.shares)


@dataclass
class Answering:
    """State of one version. ``ready``: what answers; None if nothing does. ``why``: why not, or why
    not the version that was decided on; "" if all is well.

    ``before``: what answered before; workers keep it, so that a rollback is quick. ``wanted``: what
    was last decided on, and may be loading; None if nothing may answer. ``refused``: a version
    whose check failed, which is not tried again. ``loading``: set once the version that is being
    loaded answers, or was refused.

    ``comparison``: that runs, and ``others``: the state of each version that is compared, by study.
    ``asked``: None if nothing answers.
    """

    name: str
    ready: Ready | None = None
    why: str = "no version has been loaded yet"
    before: Ready | None = None
    wanted: ServedVersion | None = None
    refused: ServedVersion | None = None
    loading: asyncio.Event = field(default_factory=asyncio.Event)
    comparison: Comparison | None = None
    others: dict[str, Answering] = field(default_factory=dict)
    asked: Asked | None = None


class AnsweringModels:
    """The models of a site, used on the event loop; files are read in threads."""

    def __init__(self, home: SiteHome, config: ServeConfig, pool: Pool) -> None:
        self._home, self._config, self._pool = home, config, pool
        self._deciding, self.comparing = Deciding(home), Comparing(home)
        self.watching = Watching(home)
        self.states = {name: Answering(name) for name in config.models}
        self._files = _taking_away(home, config)
        self._seen: object = None
        self._now: object = None  # the files' stamp in this turn of the event loop
        self._reading, self._loading = asyncio.Lock(), asyncio.Lock()
        self._loading_others = asyncio.Lock()
        self._tasks = set[asyncio.Task[None]]()  # running loads and judgements

    def _stamped(self) -> object:
        """Return the files' stamp, read once in each turn of the event loop.

        A request that is asked after a decision was stored is read in a later turn.
        """
        if self._now is None:
            self._now = _stamp(self._files)
            asyncio.get_running_loop().call_soon(self._forget_stamp)
        return self._now

    def _forget_stamp(self) -> None:
        self._now = None

    async def current(self, name: str) -> Answering:
        """Return what answers, after any change of the decisions was read. [3]

        If what answered was withdrawn, this waits until the next version is loaded.
        """
        state = self.states[name]
        if self._stamped() != self._seen:
            await self.refresh(only_if_changed=True)
        if state.ready is None:
            await state.loading.wait()
        return state

    def may_be_sent(self, name: str, ready: Ready) -> bool:
        """Return whether an answer of this version may be sent, as far as is known now. [3]"""
        asked = self.states[name].asked
        return asked is not None and asked.shows(ready) and self._stamped() == self._seen

    @property
    def folder(self) -> Path:
        """The site's folder."""
        return self._home.directory

    @property
    def finished(self) -> set[str]:
        """Names of the models that answer and are finished here."""
        ready = ((name, state.ready) for name, state in self.states.items())
        return {name for name, one in ready if one is not None and one.version.finished}

    async def keep_fresh(self) -> None:
        """Read everything again, every second. [4]"""
        while True:
            await asyncio.sleep(AGAIN_SECONDS)
            await self.refresh()

    async def refresh(self, *, only_if_changed: bool = False) -> None:
        """Read which versions may answer; begin to load those that are new."""
        async with self._reading:
            self._files = _taking_away(self._home, self._config)
            seen = _stamp(self._files)
            if only_if_changed and seen == self._seen:
                return
            answer = {name: state.ready for name, state in self.states.items()}
            decided = await asyncio.to_thread(self._decided, answer)
            new, others = list[tuple[Answering, Found]](), list[tuple[Answering, Found]]()
            for name, one in decided.items():
                self._follow(self.states[name], one, new)
                self._compare(self.states[name], one, others)
            self._keep_known()
            self._seen = seen
        if new:
            self._run(self._load(new, self._loading))
        if others:
            self._run(self._load(others, self._loading_others))

    def _follow(self, state: Answering, one: Decided, new: list[tuple[Answering, Found]]) -> None:
        """Bring one model's state to what was decided. ``new``: gets versions to be loaded."""
        if isinstance(one.found, FloError):
            _stop(state, one.found)
        else:
            if one.withdrawn:
                state.ready = None
            if _is_new(state, one.found.version):
                new.append((state, one.found))
                if state.ready is None:
                    state.loading.clear()
            elif one.found.version == state.refused:  # nothing loads, so nobody waits for it
                state.loading.set()
            state.wanted = one.found.version

    def _compare(self, state: Answering, one: Decided, new: list[tuple[Answering, Found]]) -> None:
        """Bring the versions that are compared to what was decided. [5]"""
        state.comparison = one.comparison
        for study in set(state.others) - set(one.others):
            del state.others[study]
        for study, found in one.others.items():
            other = state.others.setdefault(study, Answering(f"{state.name}, compared"))
            if isinstance(found, FloError):
                _stop(other, found)
            else:
                if _is_new(other, found.version):
                    new.append((other, found))
                other.wanted = found.version
        if one.comparison is not None and not self.comparing.is_judged(one.comparison):
            self._run(self._judge(state))
        self._ask(state)

    def _ask(self, state: Answering) -> None:
        """Set which versions are asked from now on. [5]"""
        if state.ready is None:
            state.asked = None
            return
        several, shares, comparison = [state.ready], list[int](), state.comparison
        if comparison is not None and comparison.baseline.study == state.ready.study.digest:
            for study, other in state.others.items():
                if other.ready is not None:
                    several.append(other.ready)
                    flags_nobody = state.ready.version.rule and not other.ready.version.rule
                    share = self.comparing.share(comparison, study)
                    shares.append(0 if flags_nobody else share)
        digests = tuple(one.digest for one in several)
        if comparison is None or not shares:
            state.asked = Asked((state.ready,), (), Several(digests[:1]).packed(), None)
        else:
            packed = Several(digests, comparison.id, tuple(shares)).packed()
            state.asked = Asked(tuple(several), tuple(shares), packed, comparison)

    async def _judge(self, state: Answering) -> None:
        if state.comparison is not None:
            await self.comparing.judge(state.comparison)
            self._ask(state)

    async def keep_judging(self) -> None:
        """Judge the comparisons that run, every minute."""
        while True:
            await asyncio.sleep(_JUDGE_SECONDS)
            for state in self.states.values():
                await self._judge(state)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def begin(self) -> None:
        """Read which versions may answer, and wait until they are loaded."""
        await self.refresh()
        await asyncio.gather(*self._tasks)

    async def _load(self, new: list[tuple[Answering, Found]], lock: asyncio.Lock) -> None:
        """Load versions in every worker, and let them answer. [2]

        ``lock``: versions that are compared have one of their own, so that none waits for them.
        """
        alone = lock is self._loading_others
        async with lock:
            for state, found in new:
                try:
                    loaded: str | FloError = await self._loaded(state, found.version, alone=alone)
                except (RefusedError, NetworkError) as error:
                    loaded = error
                async with self._reading:  # it may be withdrawn by what is being read
                    if state.wanted == found.version:
                        _settle(state, found, loaded)
                        for each in self.states.values():
                            self._ask(each)
            self._keep_known()

    async def _loaded(self, state: Answering, version: ServedVersion, *, alone: bool) -> str:
        """Load a version; while every worker is being started again, try for some seconds.

        ``alone``: in one worker first. If that ends, the version is refused.
        """
        end = asyncio.get_running_loop().time() + _PATIENCE_SECONDS
        while True:
            try:
                if alone:
                    await self._pool.try_out(version)
                return await self._pool.load(version)
            except NetworkError:
                if state.wanted != version or asyncio.get_running_loop().time() > end:
                    raise
                await asyncio.sleep(_AGAIN_SOON_SECONDS)

    def _keep_known(self) -> None:
        """Let workers forget what may answer no more, and close the rows of what is over."""
        known, running = set[str](), set[str]()
        for state in self.states.values():
            for one in (state, *state.others.values()):
                known |= {each.version.digest for each in (one.ready, one.before) if each}
                known |= {one.wanted.digest} if one.wanted else set()
            running |= {state.comparison.id} if state.comparison else set()
        self._pool.keep_only(known)
        self.comparing.keep_only(running)
        ready = {name: state.ready for name, state in self.states.items()}
        self.watching.watch_only({name: one.watched for name, one in ready.items() if one})

    def _decided(self, answer: dict[str, Ready | None]) -> dict[str, Decided]:
        """Return what the site's files say of each model. [1]"""
        found = dict[str, Decided]()
        for name, asked in self._config.models.items():
            now = answer[name]
            found[name] = self._deciding.read(name, asked, now.study if now else None)
        return found

    def discovery(self) -> dict[str, Any]:
        """Return what ``GET /cds-services`` answers: models with columns in FHIR that answer.

        What a compared version needs is asked for, too.
        """
        services = []
        for name, state in self.states.items():
            if state.asked is None or state.asked.ready[0].version.fhir is None:
                continue
            first, *others = state.asked.ready
            about = f"Risk of {first.version.outcome}, by {first.title}"
            prefetch = templates(first.version, first.study)
            for other in others:
                prefetch = templates(other.version, other.study) | prefetch
            hook = first.version.hook
            services.append(cds_hooks.discovery(name, hook, first.title, about, prefetch))
        return {"services": services}


def _is_new(state: Answering, version: ServedVersion) -> bool:
    return version not in (state.wanted, state.refused)


def _settle(state: Answering, found: Found, loaded: str | FloError) -> None:
    """Let a version answer that every worker has loaded, or say why it cannot.

    What answered before goes on then, unless it was withdrawn. ``loaded``: why the version has no
    reasons ("" if it has), or why it is not loaded.
    """
    if isinstance(loaded, str):
        _begin(state, found, loaded)
    else:
        log.warning(f"{found.title} cannot answer as {state.name}: {loaded}")
        state.why = f"{found.title} cannot answer: {loaded}"
        if isinstance(loaded, RefusedError):
            state.refused = found.version
        else:  # it is tried again
            state.wanted = state.ready.version if state.ready else None
    state.loading.set()


def _begin(state: Answering, found: Found, no_reasons: str) -> None:
    """Let a version answer."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    digest = bytes.fromhex(found.version.digest)
    state.before = state.ready or state.before
    facts = found.version, digest, found.study, found.title, now, no_reasons
    state.ready = Ready(*facts, found.watched)
    state.why = ""
    log.info(f"{found.title} answers as {state.name}")


def _stop(state: Answering, why: FloError) -> None:
    """Let no version answer, and keep none in the workers."""
    if state.ready is not None or state.why != str(why):
        log.warning(f"no version answers as {state.name}: {why}")
    state.ready = state.before = state.wanted = None
    state.why = str(why)
    state.loading.set()


def _taking_away(home: SiteHome, config: ServeConfig) -> tuple[str, ...]:
    """Return the files whose change may take a model away at once."""
    found = [versions.path(home)]
    finished = [home.directory / FOLDER / f"{name}{FINISHED}" for name in config.models]
    if any(path.exists() for path in finished):
        found += [home.directory / OPT_OUTS, *finished]
    return tuple(map(str, found))


def _stamp(files: tuple[str, ...]) -> object:
    """Return a value that changes whenever one of the files does."""
    found = list[object]()
    for file in files:
        try:
            stat = os.stat(file)  # noqa: PTH116 - for each answer; a Path takes five times as long
        except FileNotFoundError:
            found.append(None)
        else:
            found.append((stat.st_mtime_ns, stat.st_ino, stat.st_size))
    return found
