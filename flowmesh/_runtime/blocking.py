"""Who holds the event loop: read from the stack of its thread, by another thread.

A handler is known by the frame of its worker, a source and an actor's lifespan by the frame of their task; code that runs in
none of them (a callback, a task that a handler started) is only known by its place.  The place is the innermost line of the
application's own code: not of this package, not of the backends, and, if there is any other, not of an installed or standard
library.
"""

import asyncio
import inspect
import selectors
import sys
import sysconfig
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

import anyio
import trio
from msgspec import Struct

from flowmesh._runtime.keeper import Keepers
from flowmesh._runtime.scheduler import Scheduler
from flowmesh._runtime.sources import Sources
from flowmesh._runtime.worker import Worker

__all__ = ["Blocker", "find_blocker", "name_of", "place_in"]

MAX_FRAMES: Final = 12
"""So many of the innermost frames are shown."""
_MACHINERY: Final = (
    f"{Path(__file__).parents[1]}/",
    *(f"{Path(inspect.getfile(module)).parent}/" for module in (anyio, asyncio, trio)),
    inspect.getfile(selectors),
)
_LIBRARIES: Final = ("<frozen ", *{f"{sysconfig.get_path(name)}/" for name in ("stdlib", "platstdlib", "purelib", "platlib")})


class Blocker(Struct, frozen=True):
    """What the loop's thread does at one moment.

    `who`: an actor, with its message if it has one in hand, or a source; None for other code of the application. `place`:
    file:line and function. `stack`: the frames of the call, as a traceback shows them. `call`: two looks with the same
    `who` and `call` have seen the same call. `mesh`: whose it is; None if `who` is.
    """

    who: str | None
    place: str
    stack: str
    call: int
    mesh: str | None = None

    def is_same(self, other: "Blocker | None") -> bool:
        """Both looks have seen the same call."""
        return other is not None and (self.who, self.call) == (other.who, other.call)


def find_blocker(thread: int) -> Blocker | None:
    """Return what the application does in that thread, or None if it does nothing: the loop waits, or works for itself.

    May be called from any thread; the thread's frames stand still only as long as the caller holds the interpreter.
    """
    frame = sys._current_frames().get(thread)  # pyright: ignore[reportPrivateUsage] - the only way to another thread's stack
    frames: list[FrameType] = []
    while frame is not None and frame.f_code not in _OWNERS:
        frames.append(frame)
        frame = frame.f_back
    if frame is None:
        # In nobody's name: only what runs further in than the loop's own code is the loop's affair.
        depth = next((depth for depth, inner in enumerate(frames) if _is_machinery(inner)), len(frames))
        frames = frames[:depth]
    frames = [inner for inner in frames if not _is_machinery(inner)]
    place = place_in(frames)
    if place is None:
        return None
    shown = traceback.StackSummary.extract((inner, inner.f_lineno) for inner in reversed(frames[:MAX_FRAMES]))
    return Blocker(
        who=None if frame is None else _OWNERS[frame.f_code](frame.f_locals),
        place=place,
        stack="".join(shown.format()).rstrip("\n"),
        call=id(frames[-1]),
        mesh=None if frame is None else _mesh(frame.f_locals),
    )


def place_in(frames: Sequence[FrameType]) -> str | None:
    """Return the innermost line of the application's own code, with its function; None if there is none. Innermost first."""
    own = [frame for frame in frames if not _is_machinery(frame)]
    standing = next((frame for frame in own if not frame.f_code.co_filename.startswith(_LIBRARIES)), own[0] if own else None)
    return None if standing is None else f"{standing.f_code.co_filename}:{standing.f_lineno} in {standing.f_code.co_name}"


def name_of(worker: Worker) -> str | None:
    """Name the handler that a worker runs, with its message, as a line of the log does; None if it runs none."""
    cell, message = worker.cell, worker.message
    if cell is None:
        return None
    return f"actor {cell.name!r}" if message is None else f"actor {cell.name!r} (message {message.id})"


# A frame that ends while somebody looks has no names left.


def _actor(names: Mapping[str, Any]) -> str | None:
    worker = names.get("worker")
    return None if worker is None else name_of(worker)


def _keeper(names: Mapping[str, Any]) -> str | None:
    keeper = names.get("keeper")
    return None if keeper is None else f"actor {keeper.cell.name!r} (as it starts or stops)"


def _mesh(names: Mapping[str, Any]) -> str | None:
    return names["self"]._ground.name if "self" in names else None


def _source(names: Mapping[str, Any]) -> str | None:
    return f"source {names['name']!r}" if "name" in names else None


_OWNERS: Final[Mapping[CodeType, Any]] = {
    Scheduler._work.__code__: _actor,  # pyright: ignore[reportPrivateUsage] - recognized, not called
    Keepers._run.__code__: _keeper,  # pyright: ignore[reportPrivateUsage]
    Sources._run.__code__: _source,  # pyright: ignore[reportPrivateUsage]
}


def _is_machinery(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(_MACHINERY)
