"""Which version answers for each model that ``serve.toml`` names, now.

1. the site's decisions say which version is in use (``flo.clients.prediction.versions``), or
   that a model that was finished here has that name;
2. the same rules as for every use of a model: policy, gate, withdrawals, opt-outs;
3. a version answers once every worker has loaded it and computed its golden cases. Until then
   the one before answers, unless it was withdrawn;
4. before each answer, and again before it is sent, the file of decisions is looked at. After a
   change nothing is answered until it was read;
5. all else (policy, rule, mapping, opt-outs) is read again every second.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flo.clients.home.site_home import SiteHome
from flo.clients.mapping.mapping_file import mapping_of
from flo.clients.patients.opt_outs import FILE as OPT_OUTS
from flo.clients.prediction import allowed, flag_decisions, versions
from flo.clients.prediction.finish import FinishedAtHome, open_finished
from flo.clients.records.finished_model import FOLDER, published_path
from flo.clients.serving import cds_hooks
from flo.clients.serving.onnx_export import exported
from flo.clients.serving.pool import Pool
from flo.clients.serving.service import ServedVersion
from flo.clients.serving.settings import ServeConfig, ServedModel
from flo.clients.sources.config import FhirPlace, OmopPlace
from flo.clients.sources.fhir_prefetch import PrefetchReader
from flo.clients.sources.mapping import StudyMapping
from flo.errors import FloError, NetworkError, RefusedError
from flo.keys.identity import Identity
from flo.published.model_card import FINISHED, PublishedModel
from flo.study.document import Study

log = logging.getLogger("flo.clients.serving.answering")

AGAIN_SECONDS = 1.0
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

    ``no_reasons``: why it gives no reasons; "" if it does.
    """

    version: ServedVersion
    digest: bytes
    study: Study
    title: str
    since: str
    no_reasons: str


@dataclass
class Answering:
    """State of one model. ``ready``: what answers; None if nothing does. ``why``: why not, or why
    not the version that was decided on; "" if all is well.

    ``before``: what answered before; workers keep it, so that a rollback is quick. ``wanted``: what
    was last decided on, and may be loading; None if nothing may answer. ``refused``: a version
    whose check failed, which is not tried again. ``loading``: set once the version that is being
    loaded answers, or was refused.
    """

    name: str
    ready: Ready | None = None
    why: str = "no version has been loaded yet"
    before: Ready | None = None
    wanted: ServedVersion | None = None
    refused: ServedVersion | None = None
    loading: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True)
class _Decided:
    """What the site's files say: a version, its study and title, or why none may answer.

    ``withdrawn``: whether what answers now was withdrawn.
    """

    found: tuple[ServedVersion, Study, str] | FloError
    withdrawn: bool


class AnsweringModels:
    """The models of a site, used on the event loop; files are read in threads."""

    def __init__(self, home: SiteHome, config: ServeConfig, pool: Pool) -> None:
        self._home, self._config, self._pool = home, config, pool
        self.states = {name: Answering(name) for name in config.models}
        self._files = _taking_away(home, config)
        self._seen: object = None
        self._now: object = None  # the files' stamp in this turn of the event loop
        self._reading, self._loading = asyncio.Lock(), asyncio.Lock()
        self._tasks = set[asyncio.Task[None]]()  # running loads
        self._exports = dict[str, str]()  # card -> its network as ONNX, in base64

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
        """Return what answers, after any change of the decisions was read. [4]

        If what answered was withdrawn, this waits until the next version is loaded.
        """
        state = self.states[name]
        if self._stamped() != self._seen:
            await self.refresh(only_if_changed=True)
        if state.ready is None:
            await state.loading.wait()
        return state

    def may_be_sent(self, name: str, ready: Ready) -> bool:
        """Return whether an answer of this version may be sent, as far as is known now. [4]"""
        return self._stamped() == self._seen and self.states[name].ready is ready

    @property
    def finished(self) -> set[str]:
        """Names of the models that answer and are finished here."""
        ready = ((name, state.ready) for name, state in self.states.items())
        return {name for name, one in ready if one is not None and one.version.finished}

    async def keep_fresh(self) -> None:
        """Read everything again, every second. [5]"""
        while True:
            await asyncio.sleep(AGAIN_SECONDS)
            await self.refresh()

    async def refresh(self, *, only_if_changed: bool = False) -> None:
        """Read which versions may answer; begin to load those that are new."""
        async with self._reading:
            seen = _stamp(self._files)
            if only_if_changed and seen == self._seen:
                return
            ready = {one.name: one.ready for one in self.states.values()}
            decided = await asyncio.to_thread(self._decided, ready)
            new = dict[str, tuple[ServedVersion, Study, str]]()
            for name, one in decided.items():
                state = self.states[name]
                if isinstance(one.found, FloError):
                    _stop(state, one.found)
                    continue
                version = one.found[0]
                if one.withdrawn:
                    state.ready = None
                if version not in (state.wanted, state.refused):
                    new[name] = one.found
                    if state.ready is None:
                        state.loading.clear()
                state.wanted = version
            self._keep_known()
            self._seen = seen
        if new:
            loading = asyncio.create_task(self._load(new))
            self._tasks.add(loading)
            loading.add_done_callback(self._tasks.discard)

    async def begin(self) -> None:
        """Read which versions may answer, and wait until they are loaded."""
        await self.refresh()
        await asyncio.gather(*self._tasks)

    async def _load(self, new: dict[str, tuple[ServedVersion, Study, str]]) -> None:
        """Load versions in every worker, and let them answer. [3]"""
        async with self._loading:
            for name, (version, study, title) in new.items():
                state = self.states[name]
                try:
                    no_reasons = await self._loaded(state, version)
                except RefusedError as error:
                    state.refused = version
                    _say_not_loaded(state, title, error)
                except NetworkError as error:
                    state.wanted = state.ready.version if state.ready else None  # it is tried again
                    _say_not_loaded(state, title, error)
                else:
                    if state.wanted == version:  # it may have been withdrawn meanwhile
                        _begin(state, version, study, title, no_reasons)
            self._keep_known()

    async def _loaded(self, state: Answering, version: ServedVersion) -> str:
        """Load a version; while every worker is being started again, try for some seconds."""
        end = asyncio.get_running_loop().time() + _PATIENCE_SECONDS
        while True:
            try:
                return await self._pool.load(version)
            except NetworkError:
                if state.wanted != version or asyncio.get_running_loop().time() > end:
                    raise
                await asyncio.sleep(_AGAIN_SOON_SECONDS)

    def _keep_known(self) -> None:
        """Let workers forget what may answer no more."""
        several = [one for state in self.states.values() for one in (state.ready, state.before)]
        known = {one.version.digest for one in several if one is not None}
        wanted = {one.wanted.digest for one in self.states.values() if one.wanted is not None}
        self._pool.keep_only(known | wanted)

    def _decided(self, ready: dict[str, Ready | None]) -> dict[str, _Decided]:
        """Return the version of each model that is to answer, or why none may. [1, 2]"""
        found = dict[str, _Decided]()
        for name, model in self._config.models.items():
            try:
                known, now = versions.read(self._home), ready[name]
                withdrawn = now is not None and (
                    known.withdrawal(now.study.name, now.study.digest) is not None
                )
                found[name] = _Decided(self._with_onnx(*served(self._home, name, model)), withdrawn)
            except FloError as error:
                found[name] = _Decided(error, withdrawn=True)
            except Exception as error:  # of any kind: what cannot be read answers nobody
                log.exception(f"which version answers as {name} cannot be read")
                why = f"its files cannot be read ({type(error).__name__})"
                found[name] = _Decided(RefusedError(why), withdrawn=True)
        return found

    def _with_onnx(
        self, version: ServedVersion, study: Study, title: str
    ) -> tuple[ServedVersion, Study, str]:
        """Return the same with the network's export, which is made once."""
        if study.model.kind == "logistic" or version.finished is not None:
            return version, study, title
        if version.card not in self._exports:
            onnx = exported(Path(version.card), version.coordinators)
            self._exports[version.card] = base64.b64encode(onnx).decode()
        with_onnx = version.model_copy(update={"onnx": self._exports[version.card]})
        return with_onnx, study, title

    def discovery(self) -> dict[str, Any]:
        """Return what ``GET /cds-services`` answers: models with columns in FHIR that answer."""
        services = []
        for name, state in self.states.items():
            ready = state.ready
            if ready is not None and ready.version.fhir is not None:
                reader = PrefetchReader(ready.version.fhir, ready.study.data)
                about = f"Risk of {ready.version.outcome}, by {ready.title}"
                hook = ready.version.hook
                services.append(cds_hooks.discovery(name, hook, ready.title, about, reader))
        return {"services": services}


def _begin(
    state: Answering, version: ServedVersion, study: Study, title: str, no_reasons: str
) -> None:
    """Let a version answer that every worker has loaded."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    state.before = state.ready or state.before
    state.ready = Ready(version, bytes.fromhex(version.digest), study, title, now, no_reasons)
    state.why = ""
    state.loading.set()
    log.info(f"{title} answers as {state.name}")


def _say_not_loaded(state: Answering, title: str, why: FloError) -> None:
    """A version cannot answer. What answered before goes on, unless it was withdrawn."""
    log.warning(f"{title} cannot answer as {state.name}: {why}")
    state.why = f"{title} cannot answer: {why}"
    state.loading.set()


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


def served(home: SiteHome, name: str, asked: ServedModel) -> tuple[ServedVersion, Study, str]:
    """Return the version of a model that is to answer, its study and its title.

    Raises UsageError, RefusedError, PolicyError, TrustError: none may.
    """
    opened: PublishedModel | FinishedAtHome
    if name in versions.read(home).names:
        in_use = allowed.open_in_use(home, name)
        opened = published = in_use.model
        path, finished = in_use.path, None
    else:
        opened = open_finished(home, name)
        published, path = opened.model, published_path(home, opened.finished.name)
        allowed.refuse_withdrawn(home, published)
        finished = opened.finished.model_copy(update={"patients": ()})
    study = published.study
    fhir, table = mappings(home, study, asked)
    version = ServedVersion(
        name=name,
        hook=asked.hook,
        outcome=asked.outcome or study.data.label.replace("_", " "),
        card=str(Path(path).resolve()),
        coordinators=tuple(home.read_coordinator().fingerprints),
        finished=finished,
        rule=None if finished else flag_decisions.read(home, published),
        fhir=fhir,
        table=None if table is None else table.columns,
    )
    return version, study, opened.title


def mappings(
    home: SiteHome, study: Study, asked: ServedModel
) -> tuple[StudyMapping | None, StudyMapping | None]:
    """Return how the record system's FHIR, and how the site's table, become a study's columns.

    None for each that nobody wrote. What ``serve.toml`` says of FHIR comes first.
    """
    own = mapping_of(home, study)
    places = {type(one.source) for one in home.read_config().populations}
    given = StudyMapping(columns=asked.columns) if asked.columns else None
    if FhirPlace in places:
        return given or own, None
    return given, None if OmopPlace in places else own
