"""Runtime tests run in virtual time, on both backends: no test here waits for real."""

import pytest

from flowmesh.testing import BACKENDS, virtual_backend


@pytest.fixture(params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    """A fresh event loop with virtual time, of each backend in turn."""
    return virtual_backend(request.param)
