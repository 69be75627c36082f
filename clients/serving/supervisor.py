"""The process that starts front and workers, and starts each again when it ends.

    1. it loads all code once, opens the sockets, and forks: a fork begins in milliseconds;
    2. it connects each worker with the front, by handing both an end of a socket pair;
    3. a worker that ended is started again and connected; so is the front, with all workers. The
       sockets stay open here, so that new connections wait for the new front and do not fail;
    4. the memory of used tokens is a file of this process, so that it outlives a front;
    5. SIGTERM ends the front, which answers what it has begun, then the workers.

It opens no key and reads no request. If it is killed, the kernel ends the others, and systemd
starts it again.
"""

from __future__ import annotations

import gc
import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flo.clients.home.site_home import SiteHome
from flo.clients.serving import front, worker
from flo.clients.serving.front import END_WORKER, NEW_WORKER, READY, Sockets
from flo.clients.serving.replays import new_file
from flo.clients.serving.settings import ServeConfig
from flo.errors import EXIT_BUG, EXIT_OK, FloError, NetworkError
from flo.http.tls_server import bind
from flo.storage.files import make_private_directory

log = logging.getLogger("flo.clients.serving.supervisor")

SOCKET = Path("answers") / "serve.sock"  # of a site's folder
_LONGEST_PATH = 100  # bytes of a Unix socket's path; Linux allows 107
_PAUSE_SECONDS = 1.0  # before a process that ended within a second of its start is started again


@dataclass(eq=False)
class _Child:
    """``control``: this process's end of the socket to it. ``ended``: a pidfd."""

    pid: int
    control: socket.socket
    ended: int
    begun: float
    number: int = 0


class Supervisor:
    """Runs until SIGTERM or SIGINT, or until the front cannot begin."""

    def __init__(
        self,
        home: SiteHome,
        config: ServeConfig,
        sockets: Sockets,
        tell: Callable[[FloError], int],
    ) -> None:
        """``tell``: shows an error of the front on the screen, and returns its exit code."""
        self._home, self._config, self._sockets, self._tell = home, config, sockets, tell
        self._tokens, self._began = new_file(), time.time()
        self._workers = dict[int, _Child]()
        self._front: _Child | None = None
        self._ready = self._ending = False

    def run(self) -> int:
        """Return the exit code."""
        gc.freeze()  # children share what is loaded now
        wake, woken = socket.socketpair()
        woken.setblocking(False)
        signal.set_wakeup_fd(woken.fileno())
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, lambda *_: None)
        for number in range(self._config.workers):
            self._start_worker(number)
        self._start_front()
        while True:
            poll = select.poll()
            for known in self._watched(wake):
                poll.register(known, select.POLLIN)
            for file, _ in poll.poll():
                code = self._act(file, wake)
                if code is not None:
                    self._end_workers()
                    return code

    def _watched(self, wake: socket.socket) -> list[int]:
        found = [wake.fileno()]
        if self._front is not None:
            found += [self._front.ended, self._front.control.fileno()]
        return found + [one.ended for one in self._workers.values()]

    def _act(self, file: int, wake: socket.socket) -> int | None:
        """Act on what a descriptor reports; return an exit code if all is over."""
        if file == wake.fileno():
            wake.recv(64)
            self._ending = True
            if self._front is not None:
                os.kill(self._front.pid, signal.SIGTERM)
            return None
        if self._front is not None and file == self._front.control.fileno():
            self._hear(self._front)
            return None
        if self._front is not None and file == self._front.ended:
            ended, self._front = self._front, None
            code = _reaped(ended)
            if self._ending or not self._ready:
                return EXIT_OK if self._ending else code
            log.error("the front ended, and is started again")
            _pause(ended)
            self._start_front()
            return None
        for one in [one for one in self._workers.values() if one.ended == file]:
            _reaped(self._workers.pop(one.number))
            if not self._ending:
                log.error("a worker ended, and is started again")
                _pause(one)
                self._start_worker(one.number)
                self._connect(self._workers[one.number])
        return None

    def _hear(self, child: _Child) -> None:
        """Obey the front: it is ready, or a worker does not answer."""
        try:
            data = child.control.recv(16)
        except ConnectionError:  # it has just ended, which is reported next
            return
        if data == READY:
            self._ready = True
        elif data[:1] == END_WORKER and (one := self._workers.get(data[1])):
            os.kill(one.pid, signal.SIGKILL)

    def _start_worker(self, number: int) -> None:
        readable = [self._home.directory / name for name in ("models", "finished")]
        forbidden = self._home.directory / "identity.key"
        self._workers[number] = self._forked(
            lambda control: worker.run(control, readable, forbidden), number
        )

    def _start_front(self) -> None:
        # A front that replaces another has its memory of used tokens; the first has none.
        # Tokens tell whole seconds.
        since = 0.0 if self._ready else float(int(self._began))
        self._front = self._forked(
            lambda control: front.run(
                self._home, self._config, control, self._sockets, self._tokens, since
            ),
            0,
        )
        for one in self._workers.values():
            self._connect(one)

    def _connect(self, one: _Child) -> None:
        """Hand both ends of a new connection to a worker and to the front. [2]"""
        if self._front is None:
            return
        ours, theirs = socket.socketpair()
        try:
            socket.send_fds(one.control, [b"F"], [theirs.fileno()])
            name = NEW_WORKER + bytes([one.number])
            socket.send_fds(self._front.control, [name], [ours.fileno()])
        except OSError:  # one of the two has just ended: it will be started and connected again
            log.debug("a connection could not be handed over")
        finally:
            ours.close()
            theirs.close()

    def _forked(self, work: Callable[[socket.socket], None], number: int) -> _Child:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid:
            theirs.close()
            return _Child(pid, ours, os.pidfd_open(pid), time.monotonic(), number)
        code = EXIT_BUG
        try:
            signal.set_wakeup_fd(-1)
            for name in (signal.SIGTERM, signal.SIGINT):
                signal.signal(name, signal.SIG_DFL)
            ours.close()
            self._close_others()
            work(theirs)
            code = EXIT_OK
        except FloError as error:
            code = self._tell(error)
        except Exception:  # any error of a child ends that child
            log.exception("a process of the server failed")
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _close_others(self) -> None:
        """Close this process's ends of sockets to other children, in a new child."""
        others = [*self._workers.values(), *([self._front] if self._front else [])]
        for one in others:
            one.control.close()
            os.close(one.ended)

    def _end_workers(self) -> None:
        for one in self._workers.values():
            os.kill(one.pid, signal.SIGKILL)
            _reaped(one)
        for bound in (self._sockets.tls, self._sockets.local, self._sockets.metrics):
            if bound is not None:
                bound.close()
        (self._home.directory / SOCKET).unlink(missing_ok=True)


def _reaped(child: _Child) -> int:
    """Return the exit code of a child that has ended, negative for a signal."""
    _, status = os.waitpid(child.pid, 0)
    child.control.close()
    os.close(child.ended)
    return os.waitstatus_to_exitcode(status)


def _pause(child: _Child) -> None:
    if time.monotonic() - child.begun < _PAUSE_SECONDS:
        time.sleep(_PAUSE_SECONDS)


def open_sockets(home: SiteHome, config: ServeConfig) -> Sockets:
    """Open the server's sockets. Raises NetworkError: a port is in use, or a path too long."""
    hint = "set another port in serve.toml"
    tls = bind(config.address, config.port, hint)
    metrics = None
    if config.metrics_port is not None:
        metrics = bind("127.0.0.1", config.metrics_port, hint)
    path = home.directory / SOCKET
    if len(bytes(path)) > _LONGEST_PATH:
        raise NetworkError(
            f"{path} is too long for the server's own socket, limit {_LONGEST_PATH} bytes",
            hint="move the site's folder to a shorter path",
        )
    make_private_directory(path.parent)
    path.unlink(missing_ok=True)
    local = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    local.bind(str(path))
    path.chmod(0o600)
    for one in (tls, local, metrics):
        if one is not None:
            one.listen(2048)
    return Sockets(tls, local, metrics)
