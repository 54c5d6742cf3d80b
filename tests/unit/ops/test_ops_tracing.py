"""Trace context goes through Kafka headers unharmed, with an SDK and without one."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from stream_workers.ops import extract, inject, record_span
from stream_workers.ops_logging import JsonFormatter
from stream_workers.ops_tracing import MAX_LINKS

# The example of the W3C recommendation.
PARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TRACE_ID = 0x4BF92F3577B34DA6A3CE929D0E0E4736


def test_what_a_request_brought_its_reply_takes_on() -> None:
    headers = [("traceparent", PARENT), ("tracestate", b"vendor=1"), ("baggage", b"tenant=blue"), ("other", b"x")]
    found = extract(headers)
    assert found is not None
    assert baggage.get_baggage("tenant", found) == "blue"
    assert sorted(inject(found)) == sorted(headers[:3])


@pytest.mark.parametrize(
    "headers",
    [
        None,
        [],
        [("kafka_replyTopic", b"replies")],
        [("traceparent", b"")],
        [("traceparent", None)],
        [("traceparent", b"00-short-01")],
        [("traceparent", b"\xff\xfe\x00")],
        [("traceparent", b"00-00000000000000000000000000000000-00f067aa0ba902b7-01")],
    ],
)
def test_without_a_valid_traceparent_there_is_no_context(headers: list[tuple[str, bytes | None]] | None) -> None:
    assert extract(headers) is None


def test_no_context_makes_no_headers() -> None:
    assert inject(None) == []


def test_the_context_of_the_process_does_not_leak_into_a_request() -> None:
    token = context.attach(baggage.set_baggage("secret", "1"))
    try:
        found = extract([("traceparent", PARENT)])
    finally:
        context.detach(token)
    assert inject(found) == [("traceparent", PARENT)]


def test_a_batch_span_links_to_the_requests_that_had_a_context() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    request = extract([("traceparent", PARENT)])
    made = record_span("score", [None, request], 1_000_000, 1_250_000, {"penstock.rows": 2}, tracer=tracer)
    assert made is not None
    (span,) = exporter.get_finished_spans()
    assert [link.context.trace_id for link in span.links] == [TRACE_ID]
    assert (span.start_time, span.end_time) == (1_000_000_000, 1_250_000_000)
    assert span.kind is trace.SpanKind.CONSUMER
    assert span.attributes == {"penstock.rows": 2}
    assert span.parent is None

    record_span("score", [request] * (MAX_LINKS + 5), 0, 1, tracer=tracer)
    assert len(exporter.get_finished_spans()[1].links) == MAX_LINKS
    assert record_span("score", [None], 0, 1, tracer=tracer) is None
    assert len(exporter.get_finished_spans()) == 2
    provider.shutdown()


def test_with_the_api_alone_a_span_is_nothing_and_the_context_still_travels() -> None:
    code = f"""
import sys
sys.modules["opentelemetry.sdk"] = None
from stream_workers.ops import extract, inject, record_span
found = extract([("traceparent", {PARENT!r})])
print(record_span("score", [found], 0, 1), inject(found)[0][1].decode())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"None {PARENT.decode()}\n"


def test_a_log_line_inside_a_trace_names_it() -> None:
    found = extract([("traceparent", PARENT)])
    assert found is not None
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter("p"))
    token = context.attach(found)
    try:
        handler.emit(logging.makeLogRecord({"msg": "hello"}))
    finally:
        context.detach(token)
    line = json.loads(stream.getvalue())
    assert (line["trace_id"], line["span_id"]) == ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")
