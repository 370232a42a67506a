"""Tools for testing applications that are made of actors; they need no particular test runner.

Virtual time: `run(async_fn)` runs a test in which hours pass in no time; under anyio's pytest plugin, let the `anyio_backend`
fixture return `virtual_backend(...)`.  Give the mesh a clock whose wall time the test can set, `Mesh(clock=VirtualClock())`,
or none: the default clock follows the loop into virtual time.  `advance(seconds)` moves time, `settled()` waits until every
task is blocked, and a deadlock raises `StandstillError` instead of hanging::

    async def test_reminder():
        async with mesh:
            await remind.tell(order, delay=30 * 86_400)
            await advance(30 * 86_400)
            assert reminded == [order]

    flowmesh.testing.run(test_reminder, backend="trio")

Cancellation: `cancel_sweep(make, check)` cancels a coroutine at each of its suspensions in turn::

    def check(swept):
        assert mailbox.statistics().ready == (1 if swept.cancelled else 0)

    await cancel_sweep(make, check)
"""

from flowmesh.testing.standstill import EPOCH, StandstillError
from flowmesh.testing.sweep import Swept, cancel_sweep
from flowmesh.testing.virtual import BACKENDS, VirtualClock, advance, run, settled, virtual_backend

__all__ = [
    "BACKENDS",
    "EPOCH",
    "StandstillError",
    "Swept",
    "VirtualClock",
    "advance",
    "cancel_sweep",
    "run",
    "settled",
    "virtual_backend",
]
