"""Who waits for whom just now: each ask, wait for room and `stop` of a turn or of a starting actor, and the rings of them.

A wait is noted when it begins and forgotten when it ends; what it waits for is read from the mailboxes and slots whenever
somebody wants to know.  Whoever would close a ring gets DeadlockError before anything has changed.  The nodes of the graph:

    Wait      goes on when its answer has come, there is room, or the actor has stopped
    Waiting   a turn, or a class actor that starts or stops, goes on when each of its waits does
    Mailbox   goes on when one of its actors takes the next copy
    Cell      an actor takes the next copy when one of its slots is free, none of its holds is left, and its instance is there

Whatever is not known to wait goes on by itself: a free slot, a turn that works, a paused actor, a retry, a mailbox that is
pulled from.  A wait for room that has a time limit goes on as well; an ask does not (its nested asks inherit its limit).
Only a turn that waits is noted, so nothing here costs a message, or an ask from outside.
"""

import math
from collections.abc import Callable, Iterator

import anyio

from flowmesh._core.aside import Lane
from flowmesh._core.entry import NO_LANE, State
from flowmesh._core.mailbox import Mailbox
from flowmesh._core.waits import Needs, closed_ring
from flowmesh._runtime.asking import Ask
from flowmesh._runtime.cell import Cell
from flowmesh._runtime.classes import ClassHandler
from flowmesh._runtime.ground import Ground
from flowmesh._runtime.instance import Acting, Instance
from flowmesh._runtime.lineage import task_here
from flowmesh._runtime.naming import Node, error_of, names_in
from flowmesh._runtime.wait import Wait, Waiting
from flowmesh._runtime.worker import current_worker
from flowmesh.message import Message

__all__ = ["Waits"]


class Waits:
    """The waits of one mesh's turns.

    Args:
        ground: of the mesh.
        consumers_of: gives the actors of a mailbox.
        withdraw: takes the copy of an ask that has failed out of its mailbox.
        keeping_here: gives the class actor whose lifespan runs here, if one does.
        awaited: gives the class actor whose start the start of the later ones waits for, if there is one.
    """

    def __init__(
        self,
        ground: Ground,
        *,
        consumers_of: Callable[[Mailbox], list[Cell]],
        withdraw: Callable[[Ask, Mailbox], None],
        keeping_here: Callable[[], Acting | None],
        awaited: Callable[[], Cell | None],
    ) -> None:
        self._ground = ground
        self._consumers_of = consumers_of
        self._withdraw = withdraw
        self._keeping_here = keeping_here
        self._awaited = awaited
        self._turns: dict[tuple[int, Mailbox], Waiting] = {}
        self._of_cell: dict[Acting, dict[Waiting, None]] = {}
        self._keepings: dict[Acting, Waiting] = {}
        self.suspects: list[Wait] = []
        self.seen: set[tuple[str, str]] = set()
        """Which actor has been seen to send to which mailbox, by name."""

    def __iter__(self) -> Iterator[Wait]:
        """All waits that count, of those who have not ended."""
        everybody = [*self._keepings.values(), *(who for cell in self._of_cell.values() for who in cell)]
        return iter([wait for who in everybody if who.is_current for wait in who.waits if wait.counts])

    # Beginning and ending

    def ask(self, ask: Ask, box: Mailbox) -> Wait | None:
        """Note that whoever calls is about to ask, and wait; None if it is nobody whom others could wait for.

        Raises:
            DeadlockError: the wait would close a ring; it is not noted.
        """
        who = self._who()
        if who is None:
            return None
        wait = ask.wait = Wait(who, "answer", box=box, ask=ask)
        wait.suspects = self.suspects
        self._begin(wait)
        return wait

    def room(self, box: Mailbox) -> Wait | None:
        """Note that whoever calls is about to wait for room, unless it does so only until a time limit; else as `ask`.

        Raises:
            DeadlockError: as `ask`.
        """
        who = self._who()
        if who is None or _has_limit(who):
            self._drop(who)
            return None
        wait = Wait(who, "room", box=box)
        self._begin(wait)
        return wait

    def stop(self, cell: Cell) -> Wait | None:
        """Note that whoever calls is about to wait until an actor has stopped; as `ask`.

        Raises:
            DeadlockError: as `ask`.
        """
        who = self._who()
        if who is None:
            return None
        wait = Wait(who, "stop", box=cell.box, cell=cell)
        self._begin(wait)
        return wait

    def end(self, wait: Wait) -> None:
        """Forget a wait: it is over."""
        if wait.ask is not None:
            wait.suspects = wait.ask.wait = None  # Nor is a circle of objects left.
        wait.who.waits.remove(wait)
        self._drop(wait.who)

    def ring_of_hold(self, cell: Cell) -> list[str] | None:
        """Name the ring that holding this actor closes, from it on; None if there is none. It is held already."""
        ring = self._ring(cell)
        return None if ring is None else names_in(ring)

    def look_at_suspects(self) -> None:
        """Fail the asks that close a ring since their copies were set aside for a lane."""
        while self.suspects:
            wait = self.suspects.pop()
            ask = wait.ask
            if ask is None or not ask.is_open or wait not in wait.who.waits:
                continue
            ring = self._ring(wait)
            if ring is not None:
                ask.fail(error_of(wait, ring))
                self._withdraw(ask, wait.box)

    def _begin(self, wait: Wait) -> None:
        wait.who.waits.append(wait)
        if wait.kind != "stop":
            self.seen.add((wait.who.cell.name, wait.box.name))
        if wait.kind == "answer":
            for cell in self._consumers_of(wait.box):
                if cell.running < cell.width and not cell.closed:
                    return
        try:
            ring = self._ring(wait)
            if ring is not None:
                raise error_of(wait, ring)
        except BaseException:
            self.end(wait)
            raise

    def _who(self) -> Waiting | None:
        worker = current_worker.get()
        if worker is None:
            cell = self._keeping_here()
            # In its own task only: what else was started in a lifespan outlives the start.
            if cell is None or cell.keeper is None or cell.keeper.task is not task_here():
                return None
            return self._keepings.setdefault(cell, Waiting(cell))
        message, cell = worker.message, worker.cell
        if message is None or cell is None or worker.ground is not self._ground:
            return None
        key = id(message), cell.box
        who = self._turns.get(key)
        if who is None or who.worker is not worker:
            who = self._turns[key] = Waiting(cell, worker, message)
            self._of_cell.setdefault(cell, {})[who] = None
        return who

    def _drop(self, who: Waiting | None) -> None:
        """Forget one that does not wait any more."""
        if who is None or who.waits:
            return
        cell = who.cell
        if who.message is None:
            self._keepings.pop(cell, None)
            return
        key = id(who.message), cell.box
        if self._turns.get(key) is who:
            del self._turns[key]
        turns = self._of_cell[cell]
        del turns[who]
        if not turns:
            del self._of_cell[cell]

    # The graph

    def _ring(self, start: Node) -> list[Node] | None:
        ring = closed_ring(start, lambda node: self._needs(node, thorough=False))
        # Looking into the mailboxes costs more, so it is done only if there is a ring without it.
        return None if ring is None else closed_ring(start, lambda node: self._needs(node, thorough=True))

    def _needs(self, node: Node, *, thorough: bool) -> Needs[Node] | None:
        match node:
            case Wait():
                return self._needs_of_wait(node, thorough=thorough)
            case Waiting():
                waits = [wait for wait in node.waits if wait.counts] if node.is_current else []
                return Needs(waits, every=True) if waits else None
            case Mailbox():
                consumers = self._consumers_of(node)
                if not consumers or node.deleted or (thorough and not self._stays_full(node)):
                    return None
                return Needs(consumers, every=False)
            case Cell():
                return self._needs_of_cell(node)

    def _needs_of_wait(self, wait: Wait, *, thorough: bool) -> Needs[Node] | None:
        box, ask = wait.box, wait.ask
        if wait.cell is not None:
            ends: list[Node] = [turn for turn in self._of_cell.get(wait.cell, ()) if turn.is_current]
            ends += [keeping for cell, keeping in self._keepings.items() if cell.actor is wait.cell]
            return Needs(ends, every=True) if ends else None
        if ask is not None:
            if not ask.is_open or ask.timed_out:
                return None
            if ask.state is State.LEASED:
                return self._needs_turn(ask.message, box)
            if ask.state is State.ASIDE and (ask.lane is not NO_LANE or ask in box.held):
                if ask in box.held:
                    return None  # By a gate, which opens with time, or when others have ended.
                return self._needs_of_lane(box.lanes[ask.lane], box)
            if ask.state is State.POSTPONED and ask.lane is not NO_LANE:
                lane = box.lanes.get(ask.lane)
                return None if lane is None else self._needs_of_lane(lane, box)
            # Set aside without a lane: behind others that are to be read.
            if ask.state not in (State.READY, State.ASIDE, State.POSTPONED):
                return None  # It awaits a retry, or ends just now.
        if not wait.waits_for_room or box.has_room():
            consumers = self._consumers_of(box)
            return Needs(consumers, every=False) if consumers and not box.deleted else None
        if box.aside and not box.has_next:
            if box.held:
                return None
            in_hand = [lane.in_hand for lane in box.lanes.values() if lane.live]
            turns = [self._turn_of(message, box) for message in in_hand if message is not None]
            known = [turn for turn in turns if turn is not None]
            return Needs(known, every=False) if len(known) == len(in_hand) else None
        return Needs((box,), every=True)

    def _needs_of_lane(self, lane: Lane, box: Mailbox) -> Needs[Node] | None:
        """What frees a lane: the turn of its holder, or the start or end of the instance that lives in it."""
        in_hand, tenant = lane.in_hand, lane.tenant
        if lane.holder is not None:
            return None if in_hand is None else self._needs_turn(in_hand, box)
        if not isinstance(tenant, Instance) or tenant.is_ready:
            return None
        if not tenant.is_waiting:
            keeping = self._keepings.get(tenant)
            return None if keeping is None else Needs((keeping,), every=True)
        # It stands in line until one of the others can be put away.
        found: list[Node] = []
        for other in box.lanes.values():
            one = other.tenant
            if not isinstance(one, Instance) or one.is_waiting:
                continue
            busy = other.message
            node = self._keepings.get(one) if busy is None else self._turn_of(busy, box)
            if node is None:
                return None
            found.append(node)
        return Needs(found, every=False)

    def _needs_of_cell(self, cell: Cell) -> Needs[Node] | None:
        if cell.paused or cell.stopped:
            return None  # Somebody may resume it; whoever asked a stopped one is told.
        if not cell.is_ready and isinstance(cell.handler, ClassHandler):
            keeper = cell.keeper
            starter = self._awaited() if keeper is None else None if keeper.has_entered else cell
            keeping = None if starter is None else self._keepings.get(starter)
            return None if keeping is None else Needs((keeping,), every=True)
        if cell.held_by:
            return Needs(tuple(cell.held_by), every=True)
        if cell.running < cell.width or (cell.autoscale is not None and cell.width < cell.autoscale.max):
            return None
        turns = [turn for turn in self._of_cell.get(cell, ()) if turn.is_current]
        return Needs(turns, every=False) if len(turns) >= cell.running else None

    def _needs_turn(self, message: Message, box: Mailbox) -> Needs[Node] | None:
        turn = self._turn_of(message, box)
        return None if turn is None else Needs((turn,), every=True)

    def _turn_of(self, message: Message, box: Mailbox) -> Waiting | None:
        turn = self._turns.get((id(message), box))
        return turn if turn is not None and turn.is_current else None

    def _stays_full(self, box: Mailbox) -> bool:
        """Nothing leaves it but through its actors: no copy expires, and no asker has a time limit."""
        return not any(
            entry.state in (State.READY, State.ASIDE)
            and (entry.expires is not None or (isinstance(entry, Ask) and entry.message.properties.deadline is not None))
            for entry in box.entries()
        )


def _has_limit(who: Waiting) -> bool:
    """Something ends the wait for room after a while."""
    worker, message = who.worker, who.message
    return (
        (worker is not None and worker.deadline is not None)
        or (message is not None and message.properties.deadline is not None and who.cell.actor.leaves_with_asker)
        or anyio.current_effective_deadline() != math.inf
    )
