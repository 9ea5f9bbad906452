"""Give traces to a receiver over OTLP/HTTP, or write them as a file in OTLP's JSON.

Where to, with which headers, certificates, compression and time limit is said by OpenTelemetry's
own variables (``OTEL_EXPORTER_OTLP_*``, ``OTEL_RESOURCE_ATTRIBUTES``). Only this module imports
OpenTelemetry, and only when something is sent.
"""

from __future__ import annotations

import base64
import datetime as dt
import importlib.util
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightshift.errors import NightshiftError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from nightshift.telemetry.spans import NightTrace, Span

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
# As the batch processor of the SDK.
MAX_BATCH = 512
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)


class TelemetryPackageError(NightshiftError):
    """A package that sends traces or lineage is not installed."""

    code = "NS-TELEMETRY-001"


class NotTakenError(NightshiftError):
    """The receiver of traces or lineage did not take them."""

    code = "NS-TELEMETRY-002"
    is_retryable = True


def is_configured() -> bool:
    """Return whether traces are to be sent, by OpenTelemetry's own variables."""
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    return any(os.environ.get(name, "").strip() for name in ENDPOINTS)


def require_package(module: str) -> None:
    """Stop with what to install if a package of the extra is missing.

    Raises:
        TelemetryPackageError: It is.
    """
    try:
        is_there = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        is_there = False
    if not is_there:
        raise TelemetryPackageError(
            f"The package of {module} is not installed.",
            expected="the optional dependencies `observability`",
            todo="pip install 'nightshift[observability]', or unset the variables that switch"
            " it on.",
        )


def send(service: str, trace: NightTrace, spans: Sequence[Span], endpoint: str = "") -> None:
    """Send spans of a trace in batches; each waits for its answer.

    Args:
        service: ``service.name``, unless OpenTelemetry's variables have one.
        trace: The trace that they belong to.
        spans: Those to send.
        endpoint: Address of the receiver, with or without ``/v1/traces``; empty takes that of the
            variables.

    Raises:
        TelemetryPackageError: The exporter is not installed.
        NotTakenError: The receiver is away, too slow or refused; earlier batches may be taken.
    """
    require_package("opentelemetry.exporter.otlp.proto.http")
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import SpanExportResult

    readable = _readable_spans(service, trace, spans)
    exporter = OTLPSpanExporter(endpoint=_with_path(endpoint) if endpoint else None)
    try:
        for start in range(0, len(readable), MAX_BATCH):
            result = exporter.export(readable[start : start + MAX_BATCH])
            if result is not SpanExportResult.SUCCESS:
                raise NotTakenError(
                    f"The spans of {trace.day} were not taken.",
                    expected="an answer 2xx within OTEL_EXPORTER_OTLP_TIMEOUT",
                    todo="See the log of the exporter and the receiver's; what was not taken is"
                    " sent again by the next round.",
                )
    finally:
        exporter.shutdown()  # type: ignore[no-untyped-call]


def write_file(service: str, trace: NightTrace, path: Path) -> None:
    """Write a trace as one line of OTLP's JSON, which the Collector and Jaeger can read.

    Raises:
        TelemetryPackageError: The exporter is not installed.
    """
    require_package("opentelemetry.exporter.otlp.proto.http")
    document = as_document(service, trace)
    path.write_text(json.dumps(document) + "\n", encoding="utf-8")


def as_document(service: str, trace: NightTrace) -> dict[str, Any]:
    """Return a trace as OTLP's JSON has it: ids in hex, times as text.

    Source: OpenTelemetry Protocol, "JSON Protobuf Encoding".
    """
    from google.protobuf.json_format import MessageToDict
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

    # The encoder that the exporter itself uses: a file and a receiver get the same spans.
    message = encode_spans(_readable_spans(service, trace, trace.spans))
    document: dict[str, Any] = MessageToDict(message, use_integers_for_enums=True)
    for resource in document["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                _write_ids_in_hex(span)
    return document


def _write_ids_in_hex(span: dict[str, Any]) -> None:
    for name in ("traceId", "spanId", "parentSpanId"):
        # Protobuf's own JSON has bytes in base64.
        if name in span:
            span[name] = base64.b64decode(span[name]).hex()


def _readable_spans(service: str, trace: NightTrace, spans: Sequence[Span]) -> list[ReadableSpan]:
    """Return spans as the SDK exports them."""
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource

    # What the variables say wins over what we say.
    given = Resource.create()
    name = {} if os.environ.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: service}
    if "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        name = {}
    resource = given.merge(Resource(name))
    return [_readable(resource, trace, span) for span in spans]


def _readable(resource: Any, trace: NightTrace, span: Span) -> ReadableSpan:  # noqa: ANN401
    from opentelemetry.sdk.trace import Event, ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, Status, StatusCode, TraceFlags

    def context_of(key: str) -> SpanContext:
        flags = TraceFlags(TraceFlags.SAMPLED)
        return SpanContext(
            trace.trace_id,
            trace.id_of(key),
            is_remote=False,
            trace_flags=flags,
        )

    # `error.type` is what viewers group errors by; the message of a status they only show.
    attributes = dict(span.attributes)
    status = Status(StatusCode.OK)
    if span.error:
        status = Status(StatusCode.ERROR, span.error)
        attributes["error.type"] = span.error
    events = [
        Event(
            event.name,
            event.attributes,
            timestamp=_nanoseconds(event.at),
        )
        for event in span.events
    ]
    return ReadableSpan(
        span.name,
        context=context_of(span.key),
        parent=context_of(span.parent) if span.parent else None,
        resource=resource,
        attributes=attributes,
        events=events,
        status=status,
        start_time=_nanoseconds(span.started_at),
        end_time=_nanoseconds(max(span.ended_at, span.started_at)),
        instrumentation_scope=InstrumentationScope("nightshift"),
    )


def _nanoseconds(at: dt.datetime) -> int:
    # Whole microseconds: a float of seconds would round them.
    return (at - _EPOCH) // _MICROSECOND * 1000


def _with_path(endpoint: str) -> str:
    base = endpoint.rstrip("/")
    return base if base.endswith("/v1/traces") else f"{base}/v1/traces"
