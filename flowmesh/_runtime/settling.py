"""Settling: what a turn has changed, committed; and what is done when the store does not take it.

In memory that is one step.  With a store it is over when it is written: until then its copies are settled for nobody, and if it
is refused they go back, their actor rests a while, and an instance that is ahead of what is saved is made anew.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from flowmesh._core.commits import (
    Ack,
    Back,
    Commit,
    Defer,
    Enter,
    Gone,
    Intent,
    PublishDue,
    Save,
    Settle,
)
from flowmesh._core.entry import Entry
from flowmesh._core.gates import TurnEnd
from flowmesh._runtime.asking import Ask
from flowmesh._runtime.cell import Cell
from flowmesh._runtime.context import Output
from flowmesh._runtime.gate_memory import GateMemory
from flowmesh._runtime.ground import Ground
from flowmesh._runtime.instance import Acting
from flowmesh._runtime.journal import REST
from flowmesh._runtime.room import Room
from flowmesh.errors import (
    Reject,
    RetryAfter,
    StoreError,
)
from flowmesh.message import Message

__all__ = ["Settling", "judge_actor"]


class Settling:
    """The part of the turns that commits.

    `fault` is told what stops the mesh. `resting`: actors that are left alone for a while.
    """

    def __init__(self, ground: Ground, room: Room, *, fault: Callable[[BaseException], None]) -> None:
        self._ground = ground
        self._room = room
        self.fault = fault
        self.gate_memory = GateMemory(ground)
        self.open: Callable[[Cell], None] = _nothing  # the scheduler's
        self.renew: Callable[[Any], None] = _nothing  # the keepers'
        self.resting: set[Cell] = set()

    def _end_at_gates(self, cell: Cell, endings: Sequence[tuple[Entry, TurnEnd]]) -> None:
        """End the copies of one call at the gates of their actor, and log what that changed."""
        admission, gates, now = self._ground.ledger.admission, cell.gates, self._ground.now()
        before = () if gates is None else gates.conditions()
        told: set[tuple[int, Any]] | None = None if len(endings) == 1 else set()
        for entry, ending in endings:
            admission.end(cell.box, entry, ending, now, told)
        after = () if gates is None else gates.conditions()
        if before != after:
            self._ground.log.warning("actor %r: breaker was %s, is %s", cell.name, ", ".join(before), ", ".join(after))

    def _commit(
        self,
        cell: Cell,
        *settles: Settle,
        outputs: list[Output] | None = None,
        save: Save | None = None,
        errors: Sequence[BaseException | None] = (),
        conclude: Callable[[], None] | None = None,
        settled: Callable[[], None] | None = None,
    ) -> None:
        """Commit a turn, and hold the actor if what it moved left a `wait` mailbox over capacity.

        With a store this may be done later, when it is written; if that fails the turn is undone: its copies go back, and so
        do those of later turns of the actor that have been handed over, or are under way in an instance that knows too much.

        Args:
            cell: the actor.
            settles: how its copies are settled.
            outputs: what the handler made.
            save: what it saved.
            errors: what the handler raised, for each of them, if that is why they are settled so; for the gates.
            conclude: what is to be done once it is committed.
            settled: what is to be done once its copies are settled, or have gone back.

        Raises:
            Unencodable: what the handler made cannot be stored; nothing has changed.
        """
        ground = self._ground
        now = ground.now()
        if cell.distrusted is not None:
            self._undo(cell, settles, cell.distrusted, saved=False, settled=settled)
            return
        intents: list[Intent] = [*settles] if save is None else [*settles, save]
        for output in outputs or ():
            action: PublishDue = output.action()
            due = output.due(ground, now)
            intents.append(action if due is None else Defer(action, due[0], on_wall=due[1]))
        if cell.gates is not None and cell.gates.on_forgotten is not None:
            intents += self.gate_memory.keeps(cell, cell.gates, settles)
        commit: Commit = ground.ledger.prepare(*intents, now=now)
        if ground.ledger.journal is None:
            ground.ledger.apply(commit, now)
            self._conclude(cell, settles, commit, errors)
            if conclude is not None:
                conclude()
            if settled is not None:
                settled()
            return
        commit.after = cell.latest
        is_over = is_counted = False

        def then(failure: StoreError | None) -> None:
            nonlocal is_over
            is_over = True
            if cell.latest is commit:
                cell.latest = None
            if failure is not None:
                self._undo(cell, settles, failure, saved=save is not None, settled=settled)
            else:
                self._conclude(cell, settles, commit, errors)
                if conclude is not None:
                    conclude()
                if settled is not None:
                    settled()
            if is_counted:
                self._note_committed(cell)

        try:
            ground.ledger.carry_out(commit, now, then, strict=bool(outputs))
        except StoreError as failure:
            then(failure)
        if not is_over:
            is_counted = True
            cell.latest = commit
            self._note_committing(cell)

    def _undo(
        self,
        cell: Cell,
        settles: Sequence[Settle],
        failure: Exception,
        *,
        saved: bool,
        settled: Callable[[], None] | None,
    ) -> None:
        """Hand the copies of a turn back that has not been written: what it did is done again."""
        ground = self._ground
        for settle in settles:
            entry = settle.item
            assert isinstance(entry, Entry)
            ground.log.error(
                "what actor %r did with message %s could not be stored, and will be done again: %s",
                cell.name,
                entry.message.id,
                failure,
            )
            if isinstance(entry, Ask):
                entry.fail(failure)
                ground.ledger.commit(Settle(settle.mailbox, entry, Gone()), now=ground.now())
            else:
                ground.ledger.commit(Settle(settle.mailbox, entry, Back()), now=ground.now())
            if entry.gated is not None:
                self._end_at_gates(cell, [(entry, TurnEnd())])
        if settled is not None:
            settled()
        if saved:
            self._distrust(cell, settles[0].item, failure)
        self._rest(cell, REST)

    def _distrust(self, cell: Cell, item: Entry | Message, why: Exception) -> None:
        """Have the instance that handled a copy made anew: it knows of what has not been saved."""
        if cell.instances is not None:
            if isinstance(item, Entry):  # Its lane was held, so nothing else has been done by that instance.
                cell.instances.renew(item)
        elif cell.distrusted is None:
            cell.distrusted = why
            cell.reopen()
            if cell.keeper is not None:
                self.renew(cell)
            else:
                self._rest(cell, 0.0)

    def _rest(self, cell: Cell, seconds: float) -> None:
        """Hand an actor nothing for a while; then it goes on, with a new instance if it needs one that nobody else makes."""
        if cell in self.resting or cell.stopped:
            return
        self.resting.add(cell)
        cell.rests = True
        cell.reopen()
        timers = self._ground.ledger.timers

        def go_on(now: float) -> None:
            if cell.distrusted is not None and cell.keeper is None:
                if cell.running or cell.committing:
                    timers.set(now + REST, go_on)
                    return
                self._make_anew(cell)
            cell.rests = False
            self.resting.discard(cell)
            self.open(cell)
            self._ground.look_idle()  # Its store may be broken: then it does nothing more.

        timers.set(self._ground.now() + seconds, go_on)

    def _make_anew(self, cell: Cell) -> None:
        """Make a new instance of a class actor that has no keeper."""
        cell.end_incarnation()
        cell.restarts += 1
        try:
            cell.make_instance()
        except Exception as error:  # noqa: BLE001 - whatever a constructor raises stops the mesh, as it does at the start
            self.fault(error)

    def _conclude(self, cell: Cell, settles: Sequence[Settle], commit: Commit, errors: Sequence[BaseException | None]) -> None:
        """Do what follows from a turn's commit."""
        ground = self._ground
        if commit.notes:
            ground.tell(commit)
        endings = [
            (settle.item, TurnEnd(isinstance(settle.verdict, Ack), error))
            for settle, error in itertools.zip_longest(settles, errors)
            if isinstance(settle.item, Entry) and settle.item.gated is not None
        ]
        if endings:
            self._end_at_gates(cell, endings)
        for change in commit.changes:
            if isinstance(change, Enter):
                box = change.mailbox
                self._room.waits.seen.add((cell.name, box.name))
                if box.options.overflow == "wait" and box.ready > box.options.capacity:
                    self._room.hold(cell, box)

    def _note_committing(self, cell: Cell) -> None:
        cell.committing += 1
        if cell.committing > cell.ahead:
            cell.reopen()

    def undo_ack(self, cell: Cell, entry: Entry, failure: StoreError) -> None:
        """Hand a copy back whose ack has not been written."""
        self._undo(cell, [Settle(cell.box, entry, Ack())], failure, saved=False, settled=None)
        self._note_committed(cell)

    def _note_committed(self, cell: Cell) -> None:
        cell.committing -= 1
        if cell.closed or cell.gathering is not None:  # What waits for others may have to give way to them now.
            self.reopen(cell)

    def reopen(self, cell: Cell) -> None:
        """See whether an actor that is closed may go on, or come to rest, now that a turn of it is written."""
        if cell.committing <= cell.ahead:
            self.open(cell)
        if not cell.committing:
            for waiter in cell.stopping:
                self._ground.parking.wake(waiter)


def judge_actor(cell: Cell, entry: Entry, error: BaseException) -> None:
    """Let the actor be judged, now that the message is settled; a verdict is no failure."""
    acting: Acting | None = cell if cell.instances is None else cell.instances.find(entry)
    if acting is not None and acting.judge is not None and not isinstance(error, Reject | RetryAfter):
        acting.judge(acting, error, entry.message)


def _nothing(_cell: Cell) -> None:
    return None
