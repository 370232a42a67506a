"""What `serve` adds to a mesh: signals, and the way out when the drain does not end.

    signal   the loop                                   a thread, even if the loop is blocked: exit with 70
    first    begins the drain                           grace + PATIENCE seconds from now
    second   cancels every handler, or the start        PATIENCE seconds from now
    third    -                                          now

A signal during a drain that `mesh.stop()` began is a second one.  SIGUSR1 logs what everybody does (see dumping.py).
"""

import functools
import signal
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from threading import get_ident

import anyio

from flowmesh._runtime.blocking import find_blocker
from flowmesh._runtime.drain import PATIENCE, HardExit
from flowmesh._runtime.dumping import Dumping
from flowmesh._runtime.engine import Engine
from flowmesh._runtime.ground import Phase
from flowmesh._runtime.parking import parking_here
from flowmesh._runtime.signals import Signals

__all__ = ["serving"]


@contextmanager
def serving(engine: Engine) -> Generator[Callable[[], Awaitable[None]]]:
    """Hear signals from before the mesh starts until after it has drained; yields what to await between the two.

    The mesh is started and finished inside, in the task that entered. In any other thread than the main one no signals are
    heard, but the rest holds.
    """
    ground, parking = engine.ground, parking_here()
    engine.report = None  # If the start is cancelled there will be none.
    blocker = functools.partial(find_blocker, get_ident())
    engine.hard_exit = hard_exit = HardExit(ground.name, ground.log, engine.still_running, blocker)
    try:
        with anyio.CancelScope() as scope:
            stages = _Stages(engine, hard_exit, scope)
            signals = Signals(count=stages.count, at_once=stages.limit, in_loop=stages.carry_out, call_soon=parking.call_soon)
            with signals, Dumping(ground.log, engine.dump, parking.call_soon):
                yield stages.until_stopping
    finally:
        engine.hard_exit = None
        hard_exit.disarm()


class _Stages:
    """How far the stop has been asked to go: 1 drain, 2 at once, 3 hard. Each stage is carried out once, in order.

    `scope` is cancelled by a second signal that comes before the mesh has started.
    """

    def __init__(self, engine: Engine, hard_exit: HardExit, scope: anyio.CancelScope) -> None:
        self._engine = engine
        self._hard_exit = hard_exit
        self._scope = scope
        self._asked: list[signal.Signals | None] = []
        self._limited = 0
        self._carried_out = 0
        self._has_started = False

    def count(self, number: signal.Signals) -> None:
        """Note a signal. Runs in a signal handler: appends, and takes no lock."""
        if not self._asked and self._engine.ground.phase is Phase.DRAINING:
            self._asked.append(None)  # Stage 1 was reached without a signal.
        self._asked.append(number)

    def limit(self) -> None:
        """Set the time limit of the stage. Runs in a thread."""
        while self._limited < len(self._asked):
            self._limited += 1
            if self._limited == 1:
                self._hard_exit.arm(self._engine.grace + PATIENCE)
            else:
                self._hard_exit.arm(PATIENCE if self._limited == 2 else 0)

    def carry_out(self) -> None:
        """Do what the stage asks for. Runs in the loop."""
        engine = self._engine
        while self._carried_out < len(self._asked):
            number = self._asked[self._carried_out]
            self._carried_out += 1
            if number is None:
                continue
            if self._carried_out == 1:
                engine.ground.log.info("%s: draining for up to %g s", number.name, engine.grace)
                engine.stop()
                continue
            engine.ground.log.warning("%s again: stopping at once", number.name)
            if self._has_started:
                engine.abort()
            else:
                self._scope.cancel()  # The start, which stops again whatever it has started.

    async def until_stopping(self) -> None:
        """Wait, in a mesh that has started, until it has to stop; at once if a signal came before.

        Cancellation: leaves nothing behind.
        """
        self._has_started = True
        self.carry_out()
        if self._carried_out:
            self._engine.stop()
        await self._engine.until_stopping()
