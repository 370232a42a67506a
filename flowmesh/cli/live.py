"""`flowmesh run` on a terminal: a mesh that runs, and a Board of it at the bottom of the Screen.

Two halves, so that neither holds up the other.  A task beside the mesh reads the statistics: in the event loop's own thread,
where they hold still, and never for more than a fiftieth of its time.  A thread draws them: laying out takes longer than
reading, and a terminal may stand still.  The thread also says when the readings stop, because something blocks the loop.
"""

import logging
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from threading import Event, Thread
from types import TracebackType
from typing import Final, Self

import anyio
from rich.console import Console

from flowmesh._runtime.ground import Phase
from flowmesh.cli.board import Board, MeshPhase, Reading
from flowmesh.cli.screen import Screen
from flowmesh.mesh import Mesh

__all__ = ["LiveView"]

INTERVAL: Final = 0.25
"""Seconds between two drawings, and between two readings unless those take long."""
SHARE: Final = 50
"""A reading is followed by a pause of at least so many times its own length."""
MARGIN: Final = 4
"""At least so many lines of the terminal, and a quarter of them, are left for what scrolls; one is the cursor's."""

_PHASES: Final[dict[Phase, MeshPhase]] = {
    Phase.NEW: "starting",
    Phase.STARTING: "starting",
    Phase.RUNNING: "running",
    Phase.DRAINING: "draining",
    Phase.STOPPED: "stopped",
}

_log: Final = logging.getLogger("flowmesh.cli")


class LiveView:
    """Shows a mesh while it is served; the last state stays on the terminal.

    Args:
        mesh: one that does not run yet.
        screen: where to draw.
        clock: seconds, for the rates.
    """

    def __init__(self, mesh: Mesh, screen: Screen, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._mesh = mesh
        self._screen = screen
        self._clock = clock
        self._console = Console(file=screen.terminal, highlight=False, markup=False)
        self._board = Board(mesh.name, encoding=self._console.encoding)
        self._reading: Reading | None = None
        self._added: Reading | None = None
        self._ended = Event()
        self._failed = False
        self._thread = Thread(target=self._draw_on, name="flowmesh-live", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        if self._mesh.report is not None:
            with self._surviving("the live view has no last state"):
                self._read()
                self._draw()
        self._screen.leave()

    async def serve(self) -> int:
        """Run the mesh as `mesh.serve` does, with the view beside it.

        Cancellation: that of `mesh.serve`.
        """
        code, failure = 0, None
        async with anyio.create_task_group() as group:
            group.start_soon(self._read_on)
            try:
                code = await self._mesh.serve()
            except BaseException as error:  # noqa: BLE001 - raised below, where the group makes no group of it
                failure = error
            group.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return code

    async def _read_on(self) -> None:
        with self._surviving("the live view gets no more numbers"):
            while True:  # noqa: ASYNC110 - a pause between readings, not a wait for one
                await anyio.sleep(self._read())

    def _read(self) -> float:
        """Take a reading, and return the pause that it asks for."""
        began = self._clock()
        statistics = self._mesh.statistics()
        phase = _PHASES[self._mesh._engine.ground.phase]  # pyright: ignore[reportPrivateUsage] - shown, but no public name
        taken = self._clock()
        pause = max(INTERVAL, (taken - began) * SHARE)
        self._reading = Reading(moment=taken, due=taken + pause, phase=phase, statistics=statistics)
        return pause

    def _draw_on(self) -> None:
        with self._surviving("the live view has ended"):
            while not self._ended.wait(INTERVAL):
                self._draw()

    @contextmanager
    def _surviving(self, what: str) -> Generator[None]:
        """Log an error instead of raising it: a view that fails is no reason to stop the mesh."""
        try:
            yield
        except Exception:  # noqa: BLE001 - a terminal that goes away, for one
            self._failed = True
            self._screen.leave()
            _log.exception(what)

    def _draw(self) -> None:
        reading = self._reading
        if reading is None or self._failed:
            return
        if reading is not self._added:
            self._added = reading
            self._board.add(reading)
        columns, lines = self._screen.size()
        # A line that fills the terminal to its edge would be broken by some and not by others.
        width, height = columns - 1, lines - 1 - max(MARGIN, lines // 4)
        with self._console.capture() as capture:
            self._console.print(self._board.render(now=self._clock(), width=width, height=height - 1), soft_wrap=True)
        self._screen.show(["", *(line.rstrip() for line in capture.get().splitlines())])
