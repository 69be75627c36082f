"""Spans of studies to a collector that speaks OTLP, the protocol of OpenTelemetry (extra ``otel``).

A thread of OpenTelemetry sends them in batches. What the collector does not take is lost, and
logged: traces are for operators, and the audit log has every event.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flo.errors import UsageError
from flo.server.http.spans import Event, Span, StudyTrace

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

log = logging.getLogger("flo.server.otlp")

_TRACES = "/v1/traces"  # below a collector's address, for OTLP over HTTP
_SECONDS = 1.0  # between two looks at the events
_PATIENCE = 3.0  # seconds, for a collector that does not answer
EventsOf = Callable[[str], Sequence[Mapping[str, Any]]]
EventsAfter = Callable[[int], Sequence[tuple[int, str, str, str | None, Mapping[str, Any]]]]


class Traces:
    """Sends what new events end. ``send`` is called periodically, by one thread at a time, and
    ``close`` once.

    Raises UsageError: the extra is not installed.
    """

    def __init__(self, endpoint: str, after: int, events_after: EventsAfter, of: EventsOf) -> None:
        """``endpoint``: the collector's address. ``after``: number of the last event that is not
        sent. ``of``: returns the events of a study, of which some may be earlier."""
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise UsageError(
                "[traces] in coordinator.toml needs OpenTelemetry, which is not installed",
                hint="pip install 'flo[otel]', or remove [traces]",
            ) from error
        exporter = OTLPSpanExporter(endpoint=endpoint.rstrip("/") + _TRACES, timeout=_PATIENCE)
        self._processor = BatchSpanProcessor(exporter, schedule_delay_millis=1000)
        self._after, self._events_after, self._of = after, events_after, of
        self._studies, self._due = dict[str, StudyTrace](), 0.0

    def send(self) -> None:
        """Send the spans that new events end, if a second has passed."""
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + _SECONDS
        for number, when, kind, study, facts in self._events_after(self._after):
            self._after = number
            if study is None:
                continue
            for span in self._trace(study, number).spans([(number, when, kind, facts)]):
                self._processor.on_end(_readable(span))

    def close(self) -> None:
        """Send what is left, for some seconds at most."""
        self._due = 0.0
        self.send()
        self._processor.shutdown()  # type: ignore[no-untyped-call]

    def _trace(self, study: str, number: int) -> StudyTrace:
        if study not in self._studies:  # it was offered before this process began
            made = self._studies[study] = StudyTrace(study)
            earlier: list[Event] = [
                (one["number"], one["time"], one["kind"], one["facts"])
                for one in self._of(study)
                if one["number"] < number
            ]
            for _ in made.spans(earlier):  # sent by then
                pass
        return self._studies[study]


def _readable(span: Span) -> ReadableSpan:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
    from opentelemetry.trace.status import Status, StatusCode

    def context(identifier: int) -> SpanContext:
        flags = TraceFlags(TraceFlags.SAMPLED)
        return SpanContext(span.trace, identifier, is_remote=False, trace_flags=flags)

    return ReadableSpan(
        name=span.name,
        context=context(span.id),
        parent=context(span.parent) if span.parent else None,
        resource=Resource({"service.name": "flo-coordinator"}),
        attributes=dict(span.facts),
        kind=SpanKind.INTERNAL,
        status=Status(StatusCode.ERROR, span.failed) if span.failed else Status(StatusCode.OK),
        start_time=span.begun,
        end_time=span.ended,
    )
