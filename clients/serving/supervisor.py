"""The process that starts front and workers, and starts each again when it ends.

    1. it loads all code once, opens the sockets, and forks the front: a fork begins in
       milliseconds. Workers are programs of their own, which inherit nothing
       (``flo.clients.serving.worker_process``);
    2. it connects each worker with the front, by handing both an end of a socket pair;
    3. a worker that ended is started again and connected; so is the front, with all workers. The
       sockets stay open here, so that new connections wait for the new front and do not fail;
    4. SIGTERM ends the front, which answers what it has begun, then the workers.

It opens no key and reads no request. If it is killed, the kernel ends the others, and systemd
starts it again.
"""

from __future__ import annotations

import gc
import logging
import math
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from flo.clients.data_process.child_process import may_know
from flo.clients.home.site_home import SiteHome
from flo.clients.serving import front
from flo.clients.serving.front import END_WORKER, NEW_WORKER, READY, Sockets
from flo.clients.serving.own_socket import SOCKET, listening
from flo.clients.serving.settings import ServeConfig
from flo.errors import EXIT_BUG, EXIT_OK, FloError
from flo.http.tls_server import bind
from flo.storage.files import make_private_directory

log = logging.getLogger("flo.clients.serving.supervisor")

_END_SECONDS = 30.0  # for the front to end, before it is killed
_PAUSE_SECONDS = 1.0  # before a process that ended within a second of its start is started again


@dataclass(eq=False)
class _Child:
    """``number``: of a worker; None for the front. ``control``: our end of the socket to it.
    ``ended``: a pidfd."""

    number: int | None
    pid: int
    control: socket.socket
    ended: int
    begun: float
    is_heard: bool = True


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
        self._children = dict[int | None, _Child]()
        self._due: dict[int | None, float] = {None: 0.0}  # whom to start, and when
        self._due |= dict.fromkeys(range(config.workers), 0.0)
        self._ready, self._end_by = False, math.inf

    def run(self) -> int:
        """Return the exit code."""
        gc.freeze()  # the front shares what is loaded now
        wake, woken = socket.socketpair()
        woken.setblocking(False)
        signal.set_wakeup_fd(woken.fileno())
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, lambda *_: None)
        while True:
            self._start_due()
            reported = self._reported(wake)
            if reported == wake.fileno():
                wake.recv(64)
                self._end_front()
            code = self._act(reported)
            if code is not None:
                self._end_workers()
                return code

    def _reported(self, wake: socket.socket) -> int | None:
        """Wait for one descriptor to report something; None if it is time to start a child."""
        poll = select.poll()
        poll.register(wake, select.POLLIN)
        for child in self._children.values():
            poll.register(child.ended, select.POLLIN)
            if child.is_heard:
                poll.register(child.control, select.POLLIN)
        next_start = min([*self._due.values(), self._end_by])
        wait = max(0.0, next_start - time.monotonic())
        found = poll.poll(None if wait == math.inf else 1000 * wait + 1)
        # One at a time: acting on it may close a descriptor that another report is about.
        return found[0][0] if found else None

    def _act(self, reported: int | None) -> int | None:
        """Act on what a descriptor reports; return an exit code if all is over."""
        for child in self._children.values():
            if reported == child.ended:
                return self._ended(child)
            if reported == child.control.fileno():
                self._hear(child)
                return None
        if self._end_by != math.inf:
            front_ = self._children.get(None)
            if front_ is None:
                return EXIT_OK
            if time.monotonic() > self._end_by:
                os.kill(front_.pid, signal.SIGKILL)
                self._end_by = time.monotonic() + _END_SECONDS
        return None

    def _ended(self, child: _Child) -> int | None:
        """Note that a child has ended, and when it is started again. [3]"""
        del self._children[child.number]
        code = _reaped(child)
        if child.number is None:
            if self._end_by != math.inf:
                return EXIT_OK
            if not self._ready:
                return code
        if self._end_by == math.inf:
            log.error(f"{'the front' if child.number is None else 'a worker'} ended")
            is_new = time.monotonic() - child.begun < _PAUSE_SECONDS
            self._due[child.number] = time.monotonic() + _PAUSE_SECONDS * is_new
        return None

    def _hear(self, child: _Child) -> None:
        """Obey the front: it is ready, or a worker does not answer."""
        try:
            data = child.control.recv(16)
        except BlockingIOError:
            return
        except OSError:  # it has just ended, which is reported, too
            data = b""
        if not data:
            child.is_heard = False
        elif data == READY:
            self._ready = True
        elif data[:1] == END_WORKER and (one := self._children.get(data[1])):
            os.kill(one.pid, signal.SIGKILL)

    def _end_front(self) -> None:  # [4]
        self._due.clear()
        self._end_by = time.monotonic() + _END_SECONDS
        if (child := self._children.get(None)) is not None:
            os.kill(child.pid, signal.SIGTERM)

    def _start_due(self) -> None:
        now = time.monotonic()
        for number in [number for number, when in self._due.items() if when <= now]:
            del self._due[number]
            if number is None:
                self._children[None] = self._forked_front()
                for other in [n for n in self._children if n is not None]:
                    self._connect(other)
            else:
                self._children[number] = self._spawned_worker(number)
                self._connect(number)

    def _connect(self, number: int) -> None:
        """Hand both ends of a new connection to a worker and to the front. [2]"""
        front_ = self._children.get(None)
        if front_ is None:
            return
        ours, theirs = socket.socketpair()
        try:
            socket.send_fds(self._children[number].control, [b"F"], [theirs.fileno()])
            socket.send_fds(front_.control, [NEW_WORKER + bytes([number])], [ours.fileno()])
        except OSError:  # one of the two has just ended: it will be started and connected again
            log.debug("a connection could not be handed over")
        finally:
            ours.close()
            theirs.close()

    def _spawned_worker(self, number: int) -> _Child:
        """Start a worker, which inherits its control socket and standard output only."""
        ours, theirs = _pair()
        theirs.set_inheritable(True)
        folder = self._home.directory.resolve()
        command = [sys.executable, "-I", "-W", "ignore", "-m", "flo.clients.serving.worker_process"]
        command += [str(theirs.fileno()), str(folder / "identity.key")]
        command += [str(folder / name) for name in ("models", "finished")]
        known = {name: value for name, value in os.environ.items() if may_know(name)}
        known |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")  # small products
        pid = os.posix_spawn(sys.executable, command, known, setsigmask=())
        theirs.close()
        return _Child(number, pid, ours, os.pidfd_open(pid), time.monotonic())

    def _forked_front(self) -> _Child:
        ours, theirs = _pair()
        pid = os.fork()
        if pid:
            theirs.close()
            return _Child(None, pid, ours, os.pidfd_open(pid), time.monotonic())
        code = EXIT_BUG
        try:
            signal.set_wakeup_fd(-1)
            for name in (signal.SIGTERM, signal.SIGINT):
                signal.signal(name, signal.SIG_DFL)
            for child in self._children.values():  # our ends of the workers' sockets
                child.control.close()
                os.close(child.ended)
            ours.close()
            theirs.setblocking(True)
            front.run(self._home, self._config, theirs, self._sockets)
            code = EXIT_OK
        except FloError as error:
            code = self._tell(error)
        except Exception:  # any error ends the front
            log.exception("the front failed")
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _end_workers(self) -> None:
        for child in self._children.values():
            os.kill(child.pid, signal.SIGKILL)
            _reaped(child)
        for bound in (self._sockets.tls, self._sockets.local, self._sockets.metrics):
            if bound is not None:
                bound.close()
        (self._home.directory / SOCKET).unlink(missing_ok=True)


def _pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    return ours, theirs


def _reaped(child: _Child) -> int:
    """Return the exit code of a child that has ended, negative for a signal."""
    _, status = os.waitpid(child.pid, 0)
    child.control.close()
    os.close(child.ended)
    return os.waitstatus_to_exitcode(status)


def open_sockets(home: SiteHome, config: ServeConfig) -> Sockets:
    """Open the server's sockets. Raises NetworkError: a port is in use."""
    hint = "set another port in serve.toml"
    tls = bind(config.address, config.port, hint)
    metrics = None
    if config.metrics_port is not None:
        metrics = bind("127.0.0.1", config.metrics_port, hint)
    make_private_directory((home.directory / SOCKET).parent)
    local = listening(home.directory)
    for one in (tls, local, metrics):
        if one is not None:
            one.listen(2048)
    return Sockets(tls, local, metrics)
