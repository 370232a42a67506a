"""Telemetry's tests run in virtual time, on both backends, and look at the spans that an exporter got."""

from collections.abc import Iterator

import pytest

from flowmesh.testing import BACKENDS, virtual_backend
from tests.telemetry.recording import Recorder


@pytest.fixture(params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    """A fresh event loop with virtual time, of each backend in turn."""
    return virtual_backend(request.param)


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """A provider with the SDK's default sampler: everything, unless the parent was not."""
    recorder = Recorder()
    yield recorder
    recorder.provider.shutdown()
