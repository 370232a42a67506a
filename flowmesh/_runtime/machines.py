"""The machines of one actor: the state of each, which messages wait for it to change, and when they come back.

Asked by the ledger for each copy that has its lane, before its gates: what is postponed takes no token and no slot.  An
actor has one machine, or one for each value of its lanes; each has its own state and its own postponed messages.
"""

import itertools
from typing import Any, Protocol

from flowmesh._core.entry import NO_LANE, Entry
from flowmesh._core.machines import Otherwise, Response
from flowmesh._core.mailbox import Mailbox
from flowmesh._core.postponing import Postponed
from flowmesh._runtime.ground import Ground

__all__ = ["Machines"]


class Responding(Protocol):
    """A machine's class. `limit`: messages that each of its machines postpones at once."""

    limit: int

    def response_to(self, state: str, body: object) -> Response | None:
        """Return what is done with a message in a state."""
        ...


class Fed(Protocol):
    """The actor, as far as it matters here."""

    name: str
    box: Mailbox

    def body_of(self, entry: Entry) -> Any: ...


class Placed(Protocol):
    """One machine."""

    @property
    def state(self) -> str:
        """The state that it is in."""
        ...


class Machines:
    """The machines of one actor, and their postponed messages."""

    def __init__(self, cell: Fed, handler: Responding) -> None:
        self._cell = cell
        self._handler = handler
        self._copies = Postponed(cell.box, handler.limit)
        self._machines: dict[Any, Placed] = {}
        self.serials = itertools.count(1)  # of timeouts: one of an earlier machine may still be on its way
        self._ground: Ground

    def attach(self, ground: Ground) -> None:
        """Belong to this mesh from now on."""
        self._ground = ground

    @property
    def postponed(self) -> int:
        """Messages that wait for a change of state. O(them)."""
        return len(self._copies)

    def __call__(self, entry: Entry) -> bool:
        """Postpone a copy if its machine does so now; False if not, or if that has postponed as many as it may.

        Raises:
            MalformedMessage, InvalidHandler: its body is none that the actor takes.
        """
        body = self._cell.body_of(entry)
        machine = self._machines.get(entry.lane)
        if machine is None or not (self._waits(machine, body) and self._copies.add(entry)):
            return False
        observing = self._ground.observing
        if observing is not None:
            observing.postponed(entry.message, self._cell.box.name, actor=self._cell.name, state=machine.state)
        return True

    def state(self) -> str | None:
        """Return the state of an actor that is one machine; None while there is none, and of one with `by=`."""
        machine = self._machines.get(NO_LANE)
        return None if machine is None else machine.state

    def adopt(self, machine: Placed, lane: Any = NO_LANE) -> None:
        """Ask this machine from now on, first about what the one before has left behind."""
        self._machines[lane] = machine
        self._come_back(lane, machine)

    def changed(self, lane: Any = NO_LANE) -> None:
        """Take the news that a machine has changed its state, with its commit: let what waited for that come back."""
        machine = self._machines[lane]
        self._come_back(lane, machine)

    def leave(self, lane: Any = NO_LANE, *, resumes: bool = False) -> None:
        """Ask a machine no more: it goes, and what it has postponed comes back, for the next one.

        `resumes`: it is put away, and another message of its lane will make the next one.  What is postponed stays so, since
        that one resumes in the same state; if it came back, it would itself be the message that makes the next one.
        """
        self._machines.pop(lane, None)
        if resumes:
            self._copies.forget_gone(lane)
        else:
            self._come_back(lane, None)

    def release(self) -> None:
        """Let everything come back: the actor, its mailbox, or its mesh is gone."""
        for lane in self._copies.lanes():
            self._come_back(lane, None)

    def _come_back(self, lane: Any, machine: Placed | None) -> None:
        ground = self._ground

        def still(entry: Entry) -> bool:
            return machine is not None and self._waits(machine, self._cell.body_of(entry))

        self._copies.come_back(ground.ledger, ground.now(), lane, still=still)

    def _waits(self, machine: Placed, body: object) -> bool:
        return self._handler.response_to(machine.state, body) is Otherwise.POSTPONE
