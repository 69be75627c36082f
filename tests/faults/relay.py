"""A TCP relay between one site and its coordinator that can be told to misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import threading

_CHUNK = 16_384


class Relay:
    """Listens on ``port`` until ``close``. What it does to bytes under way can change at any time.

    ``refusing``: takes no connection. ``stalled``: holds everything back. ``delay``: seconds a
    chunk. ``rate``: bytes a second. ``corrupt``: so many of the next chunks have a bit flipped.
    """

    def __init__(self, upstream: int) -> None:
        self.refusing = self.stalled = False
        self.delay, self.rate, self.corrupt = 0.0, 0.0, 0
        self._upstream, self._writers = upstream, set[asyncio.StreamWriter]()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        starting = asyncio.start_server(self._joined, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result(10)
        self.port = int(self._server.sockets[0].getsockname()[1])

    def cut(self) -> None:
        """End all connections now."""
        self._loop.call_soon_threadsafe(self._cut)

    def heal(self) -> None:
        self.refusing = self.stalled = False
        self.delay, self.rate, self.corrupt = 0.0, 0.0, 0

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._cut()

    def _cut(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _joined(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            if self.refusing:
                return
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
            self._writers.add(far_writer)
            try:
                both = (self._pump(reader, far_writer), self._pump(far_reader, writer))
                tasks = [asyncio.create_task(pump) for pump in both]
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in tasks:
                    task.cancel()
            finally:
                self._writers.discard(far_writer)
                far_writer.transport.abort()
        except OSError:
            return  # the coordinator is down: the site sees its connection end
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                while self.stalled:
                    await asyncio.sleep(0.02)
                await asyncio.sleep(self.delay + (len(data) / self.rate if self.rate else 0))
                if self.corrupt:
                    self.corrupt -= 1
                    middle = len(data) // 2
                    data = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
                writer.write(data)
                await writer.drain()
