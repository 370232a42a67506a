"""The test kit: tests of applications that are made of actors, without waiting, without chance, on asyncio and on trio.

A test runs a mesh in virtual time, moves time, and is held to what it leaves behind; with pytest it asks for a fixture, and
any other runner calls it by `run`::

    async def test_reminder(running_mesh):
        async with running_mesh(mesh) as time:
            await remind.tell("ada", delay=30 * 86_400)
            await time.advance(30 * 86_400)
            assert reminded == ["ada"]

Time: `run(async_fn)` runs a test in which hours pass in no time; `virtual_backend` gives anyio's pytest plugin the same.
`advance(seconds)` moves time, `settled()` waits until every task is blocked, `VirtualClock` has a wall clock that can be set,
and a deadlock raises `StandstillError` instead of hanging.

What happens: `running(mesh)` fails a test that leaves dead letters it did not expect (`Dead`).  A `Probe` is an actor whose
messages the test expects one by one, and answers as it likes.  A `History` finds what was lost, duplicated, unexpected or
reordered.

In which order: `explore(test)` reruns a test under many orders of what may happen in any order, and replays the one that fails.

Cancellation: `cancel_sweep(make, check)` cancels a coroutine at each of its suspensions in turn.

With pytest: the plugin `flowmesh.testing.plugin` is found by itself; it offers the fixtures `running_mesh`, `mesh_history` and
`mesh_backend`, the mark `mesh_orders`, and the option `--mesh-seed`.
"""

from flowmesh.testing.exploring import explore
from flowmesh.testing.history import Finding, History, HistoryError
from flowmesh.testing.letters import Dead, DeadLettersError
from flowmesh.testing.probe import Probe
from flowmesh.testing.received import Received
from flowmesh.testing.running import Running, running
from flowmesh.testing.standstill import EPOCH, StandstillError
from flowmesh.testing.sweep import Swept, cancel_sweep
from flowmesh.testing.virtual import BACKENDS, VirtualClock, advance, run, settled, virtual_backend

__all__ = [
    "BACKENDS",
    "EPOCH",
    "Dead",
    "DeadLettersError",
    "Finding",
    "History",
    "HistoryError",
    "Probe",
    "Received",
    "Running",
    "StandstillError",
    "Swept",
    "VirtualClock",
    "advance",
    "cancel_sweep",
    "explore",
    "run",
    "running",
    "settled",
    "virtual_backend",
]
