"""Traces that pass through Kafka: W3C trace context in record headers, and a batch's span linked to its requests.

Only the OpenTelemetry API is needed: without an SDK spans are no-ops and a request's context still travels on to its
reply. Sources: W3C Trace Context; OpenTelemetry semantic conventions, "Messaging spans".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from opentelemetry import trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import Getter, Setter
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

Headers = Sequence[tuple[str, bytes | None]]
TRACEPARENT: Final = "traceparent"
MAX_LINKS: Final = 128  # what an SDK keeps of a span's links, unless told otherwise
_PROPAGATOR: Final = CompositePropagator([TraceContextTextMapPropagator(), W3CBaggagePropagator()])


class _FromHeaders(Getter[Headers]):
    def get(self, carrier: Headers, key: str) -> list[str] | None:
        values = [value.decode("ascii", "replace") for name, value in carrier if name.lower() == key and value]
        return values or None

    def keys(self, carrier: Headers) -> list[str]:
        return [name.lower() for name, _ in carrier]


class _ToHeaders(Setter[list[tuple[str, bytes]]]):
    def set(self, carrier: list[tuple[str, bytes]], key: str, value: str) -> None:
        carrier.append((key, value.encode()))


_GETTER: Final = _FromHeaders()
_SETTER: Final = _ToHeaders()


def extract(headers: Headers | None) -> Context | None:
    """The trace context of a record's headers; None, at next to no cost, where there is no valid `traceparent`."""
    if not headers or not any(name.lower() == TRACEPARENT for name, _ in headers):
        return None
    context = _PROPAGATOR.extract(headers, Context(), _GETTER)
    return context if trace.get_current_span(context).get_span_context().is_valid else None


def inject(context: Context | None) -> list[tuple[str, bytes]]:
    """The headers that carry a context on: traceparent, tracestate and baggage; none for None."""
    headers: list[tuple[str, bytes]] = []
    if context is not None:
        _PROPAGATOR.inject(headers, context, _SETTER)
    return headers


def record_span(
    name: str,
    contexts: Iterable[Context | None],
    start_us: int,
    end_us: int,
    attributes: Mapping[str, AttributeValue] | None = None,
    *,
    tracer: trace.Tracer | None = None,
) -> Context | None:
    """Record a finished span of a batch, linked to the requests that had a context; times in microseconds since epoch.

    Returns the span's context, or None where no request had one or nobody records. At most `MAX_LINKS` links.
    """
    linked = [context for context in contexts if context is not None][:MAX_LINKS]
    if not linked:
        return None
    links = [trace.Link(trace.get_current_span(context).get_span_context()) for context in linked]
    span = (tracer or trace.get_tracer("penstock")).start_span(
        name,
        Context(),
        trace.SpanKind.CONSUMER,
        attributes=dict(attributes or {}),
        links=links,
        start_time=start_us * 1000,
    )
    if not span.is_recording():
        return None
    span.end(end_us * 1000)
    return trace.set_span_in_context(span, Context())
