"""One wait, and who waits: a turn, or a class actor that starts or stops."""

from typing import Literal

from flowmesh._core.entry import NO_LANE, State
from flowmesh._core.mailbox import Mailbox
from flowmesh._runtime.asking import Ask
from flowmesh._runtime.cell import Cell
from flowmesh._runtime.instance import Acting
from flowmesh._runtime.lineage import is_part_of, task_here
from flowmesh._runtime.worker import Worker
from flowmesh.message import Message

__all__ = ["Kind", "Wait", "Waiting", "full"]

Kind = Literal["answer", "room", "stop"]


class Waiting:
    """One that waits: the turn of `worker` with `message`, or without a worker a class actor that starts or stops."""

    __slots__ = ("cell", "message", "waits", "worker")

    def __init__(self, cell: Acting, worker: Worker | None = None, message: Message | None = None) -> None:
        self.cell = cell
        self.worker = worker
        self.message = message
        self.waits: list[Wait] = []

    @property
    def is_current(self) -> bool:
        """The turn has not ended: a task that it left behind may wait still."""
        return self.worker is None or (self.worker.message is self.message and self.worker.cell is self.cell)

    @property
    def lane_note(self) -> str:
        """Say in which lane its turn is, if it is in one. O(lanes)."""
        lanes = self.cell.box.lanes
        found = next(
            (value for value, lane in lanes.items() if self.message is not None and lane.message is self.message), NO_LANE
        )
        return "" if found is NO_LANE else f" (lane {_short(found)})"


class Wait:
    """One wait of `who`, in its `task`: for the answer to `ask`, for room in `box`, or for `cell` to stop."""

    __slots__ = ("_is_of_turn", "ask", "box", "cell", "kind", "suspects", "task", "who")

    def __init__(
        self,
        who: Waiting,
        kind: Kind,
        *,
        box: Mailbox,
        cell: Cell | None = None,
        ask: Ask | None = None,
    ) -> None:
        self.who = who
        self.kind: Kind = kind
        self.box = box
        self.cell = cell
        self.ask = ask
        self.task = task_here()
        self.suspects: list[Wait] | None = None
        self._is_of_turn: bool | None = None

    @property
    def counts(self) -> bool:
        """Who waits cannot go on without it: it is in its own task, or one of a task group that it waits for."""
        if self._is_of_turn is None:
            who = self.who
            if who.worker is None:
                self._is_of_turn = who.cell.keeper is not None and self.task is who.cell.keeper.task
            else:
                # What a thread's handler calls in the loop runs in a task of its own on asyncio.
                self._is_of_turn = not who.cell.handler.is_async or is_part_of(self.task, who.worker.task)
        return self._is_of_turn

    def look_again(self) -> None:
        """Have the ring looked for once more: the copy was set aside for its lane, which nobody knew before."""
        if self.suspects is not None:
            self.suspects.append(self)

    @property
    def waits_for_room(self) -> bool:
        """It has to get into the mailbox first."""
        ask = self.ask
        return self.kind == "room" or (ask is not None and ask.state is State.READY and not ask.queued)

    def note(self, name: str) -> str:
        """Say what it waits for, unless that is an answer; `name` is the actor's that it waits for."""
        ask = self.ask
        if self.kind == "stop":
            return " (stopping)"
        if ask is not None and ask.state is State.ASIDE and ask not in self.box.held:
            return f" (lane {_short(ask.lane)})"
        if self.waits_for_room and not self.box.has_room():
            return full(self.box, name)
        return ""


def full(box: Mailbox, name: str) -> str:
    """Say that there is no room in the mailbox of the actor of that name."""
    return " (mailbox full)" if box.name == name else f" (mailbox {box.name!r} full)"


def _short(lane: object) -> str:
    text = "?" if lane is NO_LANE else repr(lane)
    return text if len(text) <= 40 else f"{text[:37]}..."
