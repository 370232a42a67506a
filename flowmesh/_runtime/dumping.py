"""What everybody does at one moment, as text: actors, turns and where they stand, who waits for whom; and the signal for it.

Read from the objects of the runtime and from the suspended coroutines of its tasks, in the loop's thread: nothing is noted for
it on a message's way.  Actors that have nothing to do are only counted.
"""

import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from types import FrameType
from typing import Any, Final, Self

from flowmesh._runtime.blocking import place_in
from flowmesh._runtime.cell import Cell
from flowmesh._runtime.classes import ClassHandler
from flowmesh._runtime.ground import Ground
from flowmesh._runtime.instance import Acting
from flowmesh._runtime.keeper import Keeper
from flowmesh._runtime.lineage import task_here
from flowmesh._runtime.room import Room
from flowmesh._runtime.scheduler import Scheduler
from flowmesh._runtime.wait import Wait
from flowmesh._runtime.worker import Worker

__all__ = ["DUMP_SIGNAL", "Dumping", "dump"]

DUMP_SIGNAL: Final[signal.Signals | None] = getattr(signal, "SIGUSR1", None)
"""Asks a mesh that is served to log its dump; None where the system has no such signal."""


def dump(ground: Ground, cells: Collection[Cell], scheduler: Scheduler, keepers: Iterable[Keeper], room: Room) -> str:
    """Return what everybody does at this moment. Call it in the mesh's thread."""
    lines = [f"mesh {ground.name!r} {ground.phase.value}; actors: {len(cells)}, workers: {len(scheduler.workers)}"]
    turns: dict[Acting, list[Worker]] = {}
    for worker in scheduler.workers:
        if worker.cell is not None and worker.message is not None:
            turns.setdefault(worker.cell, []).append(worker)
    waits = list(room.waits)
    now = ground.moment()[0]
    moving = {keeper.cell: keeper for keeper in keepers if not keeper.has_entered or keeper.is_told}
    resting = 0
    for cell in dict.fromkeys([*cells, *turns, *moving]):
        state = _state(cell)
        if not (state or cell.running or cell.box.ready or cell in moving):
            resting += 1
            continue
        lines.append(f"actor {cell.name!r}: {cell.running} of {cell.width} slots at work, {cell.box.ready} ready{state}")
        if cell in moving:
            keeper = moving[cell]
            lines.append(f"    its lifespan is {'left' if keeper.has_entered else 'entered'}{_waits_of(waits, cell, None)}")
            lines.append(f"        at {_place(keeper.task, in_thread=False)}")
        for worker in sorted(turns.get(cell, ()), key=lambda one: one.since):
            assert worker.message is not None
            waiting = _waits_of(waits, cell, worker)
            lines.append(f"    message {worker.message.id} for {now - worker.since:.3g} s{waiting}")
            lines.append(f"        at {_place(worker.task, in_thread=not cell.handler.is_async)}")
    if resting:
        lines.append(f"actors that have nothing to do: {resting}")
    for mailbox, senders, of_turns in room.lines():
        lines.append(
            f"mailbox {mailbox.name!r} is full ({mailbox.ready} of {mailbox.options.capacity}); "
            f"senders that wait for room: {senders}, of them in turns: {of_turns}"
        )
    return "\n".join(lines)


def _state(cell: Acting) -> str:
    """Say why nothing is handed to an actor, if nothing is."""
    if cell.stopped:
        return ", stopped"
    if cell.paused:
        return ", paused"
    if cell.standby:
        return ", on standby"
    if not cell.is_ready and isinstance(cell.handler, ClassHandler):
        return ", not started"
    if cell.held_by:
        return f", held until there is room in {', '.join(sorted(repr(box.name) for box in cell.held_by))}"
    if isinstance(cell, Cell) and cell.machines is not None and cell.machines.postponed:
        where = "" if cell.keying is not None else f" in state {cell.machines.state()!r}"
        return f", {cell.machines.postponed} postponed{where}"
    return ""


def _waits_of(waits: list[Wait], cell: Acting, worker: Worker | None) -> str:
    """Say what a turn waits for, or a lifespan, as far as that is known."""
    texts: list[str] = []
    for wait in waits:
        if wait.who.cell is not cell or wait.who.worker is not worker:
            continue
        match wait.kind:
            case "answer":
                texts.append(f"waits for an answer from mailbox {wait.box.name!r}")
            case "room":
                texts.append(f"waits for room in mailbox {wait.box.name!r}")
            case "stop":
                texts.append(f"waits until actor {'?' if wait.cell is None else wait.cell.name!r} has stopped")
    return "".join(f", {text}" for text in texts)


def _place(task: Any, *, in_thread: bool) -> str:
    """Return the line of the application's code in which a task stands."""
    frames = list(_frames(task))
    return place_in(frames[::-1]) or ("work in a thread" if in_thread else "code of the runtime")


def _frames(task: Any) -> Iterator[FrameType]:
    """Iterate over the frames of a task, the outermost first."""
    if task is None:
        return
    if task is task_here():
        frame: FrameType | None = sys._getframe(1)  # pyright: ignore[reportPrivateUsage] - of whoever asks for the dump
        found: list[FrameType] = []
        while frame is not None:
            found.append(frame)
            frame = frame.f_back
        yield from reversed(found)
        return
    step: Any = task.get_coro() if hasattr(task, "get_coro") else task.coro
    while step is not None:
        kind = _kind(step)
        if kind is None:
            # What an `async for` or `async with` over an asynchronous generator awaits hides that generator.
            step = next((one for one in gc.get_referents(step) if _kind(one) is not None), None)
            continue
        inner = getattr(step, f"{kind}_frame")
        if inner is not None:
            yield inner
        step = getattr(step, "gi_yieldfrom" if kind == "gi" else f"{kind}_await")


def _kind(step: object) -> str | None:
    return next((kind for kind in ("cr", "gi", "ag") if hasattr(step, f"{kind}_frame")), None)


class Dumping:
    """While it is entered, in the main thread, DUMP_SIGNAL logs the dump; an application's own use of the signal goes before.

    Args:
        log: where it goes, as a warning: it was asked for.
        take: gives the text; called by the loop.
        call_soon: lets the loop call something soon, from a signal handler too.
    """

    def __init__(self, log: logging.Logger, take: Callable[[], str], call_soon: Callable[[Callable[[], None]], None]) -> None:
        self._log = log
        self._take = take
        self._call_soon = call_soon
        self._process = 0

    def __enter__(self) -> Self:
        is_main = threading.current_thread() is threading.main_thread()
        if DUMP_SIGNAL is not None and is_main and signal.getsignal(DUMP_SIGNAL) is signal.SIG_DFL:
            self._process = os.getpid()
            signal.signal(DUMP_SIGNAL, self._handle)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._process and DUMP_SIGNAL is not None and signal.getsignal(DUMP_SIGNAL) == self._handle:
            signal.signal(DUMP_SIGNAL, signal.SIG_DFL)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # A forked child does what it did before.
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
            return
        self._call_soon(self._write)

    def _write(self) -> None:
        self._log.warning("asked by a signal:\n%s", self._take())
