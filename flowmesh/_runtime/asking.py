"""Asks: the copy in the mailbox is also the place where its asker waits.

States of an Ask, beside those of its copy: open, then exactly one of answered, failed, refused, timed out.  The asker looks
at the state before it parks and after it is woken.  An asker that leaves takes its message with it (see `Asks.leave`).
"""

from typing import Any, ClassVar

from flowmesh._core.commits import Withdraw
from flowmesh._core.entry import Entry, Outcome, State
from flowmesh._core.mailbox import Mailbox
from flowmesh._core.timers import Timer
from flowmesh._runtime.ground import Ground
from flowmesh._runtime.worker import Worker
from flowmesh.errors import NoReply

__all__ = ["Ask", "Asks"]


class Ask(Entry, eq=False):
    """One question: the copy, the place where its asker is parked (it is its own waiter), and the answer.

    `worker`: whose handler can be cancelled while it runs. `is_open`: no answer yet. `error`: what the asker gets raised.
    `waiting_for_room`: the scope in which the asker stands in the mailbox's line, if it does. `timer`: of its own deadline.
    `is_answered`: `value` is the answer, for the asker once the copy is acked.
    `wait`: what others see of it, if the asker is one whom others could wait for (see waiting.py).
    """

    parking: Any = None
    token: Any = None
    is_open: bool = True
    timed_out: bool = False
    value: Any = None
    error: BaseException | None = None
    worker: Worker | None = None
    timer: Timer | None = None
    waiting_for_room: Any = None
    wait: Any = None
    is_answered: bool = False

    asked: ClassVar[bool] = True
    fleeting: ClassVar[bool] = True

    def ended(self, outcome: Outcome) -> None:
        """Take the news that the copy has ended; if it was not by a reply, none will come."""
        if not self.is_open:
            return
        if self.is_answered and outcome == "acked":
            self.answer(self.value)
            return
        reason = "rejected" if outcome == "acked" else outcome
        self.fail(
            NoReply(
                f"message {self.message.id} to {self.message.key!r} was {reason}: no reply will come",
                reason=reason,
                message=self.message,
            )
        )

    def set_aside(self) -> None:
        """Let it be looked at whether its lane is held by one that waits for it."""
        if self.wait is not None:
            self.wait.look_again()

    def answer_when_acked(self, value: Any) -> None:
        """Give the asker its reply as soon as the turn that it is of is committed."""
        self.is_answered = True
        self.value = value

    def answer(self, value: Any) -> None:
        """Give the asker its reply."""
        if self.is_open:
            self.is_open = False
            self.value = value
            self.parking.wake(self)

    def stop_waiting(self) -> None:
        """Take the asker out of the line for room, if it stands in one."""
        if self.waiting_for_room is not None:
            self.waiting_for_room.cancel()

    def fail(self, error: BaseException) -> None:
        """Raise this in the asker; the first outcome stands."""
        if self.is_open:
            self.is_open = False
            self.error = error
            self.parking.wake(self)


class Asks:
    """The time limits of all asks, and what an asker that leaves does.

    Limits are kept in one insertion-ordered dict per timeout value, so that the first is always the next to end, with one
    timer for its head: 0.1 µs per ask instead of a timer each. A timer that finds its head gone sets itself again.
    """

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._limits: dict[float, dict[Ask, float]] = {}

    def limit(self, ask: Ask, timeout: float, deadline: float) -> None:
        """Let the ask time out at `deadline`, `timeout` seconds from now."""
        group = self._limits.get(timeout)
        if group is None:
            group = self._limits[timeout] = {}
            self._set_timer(timeout, deadline)
        group[ask] = deadline

    def limit_alone(self, ask: Ask, deadline: float) -> None:
        """Let the ask time out at a deadline that it has inherited: hardly another one has the same timeout."""

        def look(_now: float) -> None:
            self._time_out(ask)

        ask.timer = self._ground.ledger.timers.set(deadline, look)

    def lift(self, ask: Ask, timeout: float) -> None:
        """Forget the limit."""
        if ask.timer is not None:
            self._ground.ledger.timers.cancel(ask.timer)
            return
        group = self._limits.get(timeout)
        if group is not None:
            group.pop(ask, None)

    def leave(self, ask: Ask, mailbox: Mailbox) -> None:
        """Withdraw the message of an asker that goes: it ends unless it has started; if it has, its handler is cancelled."""
        ask.is_open = False
        if ask.state is State.LEASED:
            if ask.worker is not None and ask.worker.message is ask.message:
                ask.worker.cancel("asker")
        elif (ask.state is State.READY and ask.queued) or ask.state in (State.ASIDE, State.DELAYED, State.POSTPONED):
            ground = self._ground
            ground.tell(ground.ledger.commit(Withdraw(mailbox, ask), now=ground.now()))
            ground.look_idle()

    def clear(self) -> None:
        """Forget everything: the mesh has stopped and every asker has been told."""
        self._limits.clear()

    def _set_timer(self, timeout: float, due: float) -> Timer:
        def look(now: float) -> None:
            self._look(timeout, now)

        return self._ground.ledger.timers.set(due, look)

    def _look(self, timeout: float, now: float) -> None:
        group = self._limits.get(timeout)
        while group:
            ask, deadline = next(iter(group.items()))
            if deadline > now:
                self._set_timer(timeout, deadline)
                return
            del group[ask]
            self._time_out(ask)
        self._limits.pop(timeout, None)

    def _time_out(self, ask: Ask) -> None:
        if ask.is_open:
            ask.timed_out = True
            ask.stop_waiting()
            self._ground.parking.wake(ask)
