"""A collector in this process: it takes OTLP over HTTP, and keeps the spans."""

from __future__ import annotations

import contextlib
import gzip
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Receiver:
    """``spans``: all that arrived. ``url``: where it listens."""

    def __init__(self, url: str) -> None:
        self.url, self.spans = url, list[Span]()

    def take(self, path: str, body: bytes) -> None:
        assert path == "/v1/traces"
        request = ExportTraceServiceRequest.FromString(body)
        for resource in request.resource_spans:
            (service,) = [a.value.string_value for a in resource.resource.attributes]
            assert service == "flo-coordinator"
            for scope in resource.scope_spans:
                self.spans += scope.spans

    def wait_for(self, name: str, seconds: float = 20) -> Span:
        """The latest span of this name."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for span in reversed(self.spans):
                if span.name == name:
                    return span
            time.sleep(0.05)
        raise AssertionError(f"no span {name!r} among {[span.name for span in self.spans]}")


def facts(span: Span) -> dict[str, Any]:
    """A span's attributes."""
    found: dict[str, Any] = {}
    for one in span.attributes:
        value = one.value
        kind = value.WhichOneof("value")
        if kind == "array_value":
            found[one.key] = [item.string_value for item in value.array_value.values]
        else:
            found[one.key] = getattr(value, kind)
    return found


@contextlib.contextmanager
def receiving() -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            receiver.take(self.path, body)
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver = Receiver(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()
