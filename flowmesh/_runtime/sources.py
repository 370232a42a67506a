"""Sources: tasks that bring messages in. They start with the mesh, and are the first to be cancelled when it drains."""

import math
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

import anyio

from flowmesh._core.retries import describe
from flowmesh._core.supervision import Failure
from flowmesh._runtime.cancellation import without_cancellation
from flowmesh._runtime.context import ActorContext
from flowmesh._runtime.ground import Ground, Phase
from flowmesh._runtime.member import Member
from flowmesh._runtime.statistics import Statistics
from flowmesh.errors import MeshStopped

__all__ = ["Source", "SourceRun", "Sources", "Spawn"]

Source = Callable[[ActorContext], Awaitable[None]]


class Spawn(Protocol):
    """Starts a task in the mesh's own task group."""

    def __call__(self, function: Callable[..., Coroutine[Any, Any, None]], *args: object) -> None:
        """Start it."""
        ...


class SourceRun(Member):
    """One source in one run of the mesh. `scope`: around one call of its function."""

    __slots__ = ("scope",)

    def __init__(self, ground: Ground, name: str) -> None:
        super().__init__(ground, name)
        self.scope = anyio.CancelScope()

    @property
    def is_lacking(self) -> bool:
        """Nobody has brought it up: a source is ready at once, and nobody waits for one that keeps failing."""
        return not (self.is_wanted or self.has_ended)

    def take_down(self) -> None:
        """Cancel it, until it is brought up again."""
        super().take_down()
        self.scope.cancel()

    def tell(self) -> None:
        """Cancel it for good."""
        super().tell()
        self.scope.cancel()


class Sources:
    """The sources of one mesh. One that returns has ended; one that raises stops the mesh with its error.

    Unless a supervision group holds it: then that is told. `runs`: of this run of the mesh, by name.
    """

    def __init__(
        self,
        ground: Ground,
        overview: Callable[[], Statistics],
        *,
        spawn: Spawn,
        fault: Callable[[BaseException], None],
    ) -> None:
        self._ground = ground
        self._overview = overview
        self._spawn = spawn
        self._fault = fault
        self._functions: dict[str, Source] = {}
        self.runs: dict[str, SourceRun] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._functions

    def find(self, name: str) -> Source | None:
        """Return the source of that name, or None."""
        return self._functions.get(name)

    def name_of(self, function: object) -> str | None:
        """Return the name under which a function is a source here, or None."""
        return next((name for name, source in self._functions.items() if source is function), None)

    def add(self, name: str, source: Source) -> None:
        """Make a source known; it starts with the mesh, or now if that runs."""
        self._functions[name] = source
        if self._ground.phase is Phase.RUNNING:
            self.take(name).bring_up()

    def renew(self) -> None:
        """Get ready for another run of the mesh."""
        self.runs.clear()

    def take(self, name: str) -> SourceRun:
        """Return the run of a source: the one that there is, or a new one, which waits to be brought up."""
        run = self.runs.get(name)
        if run is None:
            run = self.runs[name] = SourceRun(self._ground, name)
            self._spawn(self._run, run)
        return run

    def start(self) -> None:
        """Start them all, but for those that a group has taken."""
        for name in self._functions:
            if name not in self.runs:
                self.take(name).bring_up()

    def stop(self) -> None:
        """Cancel them all."""
        for run in self.runs.values():
            run.tell()

    async def until_ended(self, deadline: float) -> None:
        """Wait until those that have been cancelled have ended; give up at the deadline.

        Cancellation: leaves nothing behind.
        """
        ground = self._ground
        for run in self.runs.values():
            if not run.has_ended:
                timer = ground.ledger.timers.set(deadline, run.look_late)
                try:
                    await run.until(lambda one=run, late=timer: one.has_ended or not late.is_set)
                finally:
                    ground.ledger.timers.cancel(timer)

    async def _run(self, run: SourceRun) -> None:
        name = run.name
        try:
            while await run.until_due():
                run.is_up, run.is_down = True, False
                run.scope = anyio.CancelScope()
                began = self._ground.now()
                run.look()
                error = await self._poll(run, name)
                run.is_up, run.is_down = False, True
                run.look()
                if self._judge(run, error, self._ground.now() - began):
                    return
        finally:
            run.is_up, run.has_ended, run.is_down = False, True, True
            run.look()

    def _judge(self, run: SourceRun, error: BaseException | None, lived: float) -> bool:
        """Decide what becomes of a source whose function has ended; True if it has ended for good."""
        if error is not None and (run.is_told or run.report is None or not isinstance(error, Exception)):
            self._fault(error)
            return True
        if run.is_told or run.report is None:
            return True
        if not run.is_wanted:  # Its group has taken it down.
            if error is not None:
                self._ground.log.error("source %r failed as it was cancelled: %s", run.name, describe(error), exc_info=error)
            return False
        run.is_wanted, run.has_ended = False, error is None
        run.report(run, Failure(error, lived=lived))
        return run.has_ended

    async def _poll(self, run: SourceRun, name: str) -> BaseException | None:
        """Call a source; return what it raised, if that was not the cancellation that it was to end by."""
        ground = self._ground
        with run.scope as scope:
            try:
                await self._functions[name](ActorContext(name, ground.log, self._overview))
            except BaseException as error:
                rest = without_cancellation(error)
                if not isinstance(rest, anyio.get_cancelled_exc_class()):
                    # One that was about to send when the drain began has ended like the others.
                    return None if isinstance(rest, MeshStopped) and ground.phase is not Phase.RUNNING else rest
                if scope.cancel_called or anyio.current_effective_deadline() == -math.inf:
                    raise
                ground.parking.forgive()
                return RuntimeError(f"source {name!r} was cancelled by something inside it")
        return None
