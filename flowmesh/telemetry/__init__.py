"""Telemetry: how a mesh tells OpenTelemetry what its turns do.

`tracing_for` and `metrics_for` are all that the rest of the package knows.  The API is always there; the SDK is looked at only
when somebody has set it up.

    names.py      every name that goes out      context.py   what messages carry, and the current span
    sampling.py   the SDK's samplers in place   record.py    what is noted on a message's way
    otel.py       which deliveries become spans, and whose children
    spans.py      from a note to a span of the SDK
    instruments.py   metrics, read from a mesh's statistics
"""

import importlib
import logging
import sys
from collections.abc import Callable
from typing import Any

from opentelemetry import metrics, trace

from flowmesh.ports import Tracing
from flowmesh.telemetry.instruments import Metrics, Numbers
from flowmesh.telemetry.names import MESH, SCHEMA_URL, SCOPE

__all__ = ["Metrics", "metrics_for", "tracing_for"]


def tracing_for(provider: trace.TracerProvider | None, log: logging.Logger) -> Tracing | None:
    """Return what traces a mesh, or None when nobody has set up an SDK: then tracing is free.

    Args:
        provider: whose spans they are; None means the global one, as it is now.
        log: where to say that a provider cannot be used.
    """
    found = trace.get_tracer_provider() if provider is None or isinstance(provider, trace.ProxyTracerProvider) else provider
    if isinstance(found, trace.ProxyTracerProvider | trace.NoOpTracerProvider):
        return None
    sdk: Any = sys.modules.get("opentelemetry.sdk.trace")
    if sdk is None or not isinstance(found, sdk.TracerProvider):
        if provider is not None:
            log.warning("%r is not a TracerProvider of OpenTelemetry's SDK: there will be no spans", found)
        return None
    tracer = found.get_tracer(SCOPE, sys.modules["flowmesh"].__version__, SCHEMA_URL)
    if not isinstance(tracer, sdk.Tracer):  # OTEL_SDK_DISABLED
        return None
    otel: Any = importlib.import_module("flowmesh.telemetry.otel")
    return otel.SdkTracing(tracer, log)


def metrics_for(provider: metrics.MeterProvider | None, mesh: str, read: Callable[[], Numbers]) -> Metrics | None:
    """Make the instruments of a mesh; None when nobody has set up an SDK.

    Args:
        provider: who collects; None means the global one, as it is now.
        mesh: its name.
        read: a method that gives its numbers; called from the collector's thread.
    """
    found = metrics.get_meter_provider() if provider is None else provider
    if type(found).__module__.startswith("opentelemetry.metrics"):
        return None  # The API's own: they collect nothing.
    # A meter for each mesh: its instruments' names are those of the others.
    meter = found.get_meter(SCOPE, sys.modules["flowmesh"].__version__, SCHEMA_URL, {MESH: mesh})
    return Metrics(meter, mesh, read)
