"""One fire of a schedule: its message, the copies that it became, and how they ended.

A round is open until every copy of its message has ended in its mailbox.  Whoever makes it is told then, in the middle of a
commit: it may set a timer, not commit.
"""

import datetime
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from flowmesh._core.commits import Keep, Publish, Withdraw
from flowmesh._core.entry import Entry, Outcome, State
from flowmesh._core.exchanges import Exchange
from flowmesh._core.mailbox import Mailbox
from flowmesh._runtime.ground import Ground
from flowmesh._runtime.scheduler import Scheduler
from flowmesh.errors import StoreError
from flowmesh.message import Fire, Message, Properties

__all__ = ["Round", "id_of"]


def id_of(fire: Fire) -> str:
    """Return the id of its message: `<name>@<due>`, the due time in UTC."""
    return f"{fire.schedule}@{fire.scheduled.astimezone(datetime.UTC).isoformat()}"


class Copy(Entry, eq=False):
    """A copy of a schedule's message, which tells its round when it has ended."""

    round: Any = None

    watched: ClassVar[bool] = True

    def ended(self, outcome: Outcome) -> None:
        """Tell the round."""
        self.round.note_end(outcome)


class Round:
    """One fire, until every copy of its message has ended. `outcome`: as Fire.previous says it, once it is not open."""

    __slots__ = ("_copies", "_left", "_on_end", "outcome")

    def __init__(self, on_end: Callable[[], None]) -> None:
        self._on_end = on_end
        self._copies: list[tuple[Mailbox, Copy]] = []
        self._left = 0
        self.outcome: Outcome | None = None

    @property
    def is_open(self) -> bool:
        """A copy of its message has not ended."""
        return self._left > 0

    def publish(
        self,
        ground: Ground,
        exchange: Exchange,
        mailboxes: tuple[Mailbox, ...],
        *,
        key: str,
        body: Any,
        fire: Fire,
        kept: Sequence[Keep] = (),
        on_written: Callable[[StoreError | None], None] | None = None,
    ) -> None:
        """Put the message into these mailboxes; what the mesh makes is never refused.

        `kept`: what its schedule remembers from then on. `on_written`: told that it has entered, or why it has not: then
        this round is over.
        """
        message = Message(
            ground.prefix,
            id_of(fire),
            body,
            exchange.name,
            key,
            fire.fired.timestamp(),
            properties=Properties(fire=fire),
        )
        now = ground.now()
        copies: list[Copy] = []

        def make_copy(message: Message) -> Entry:
            copy = Copy(message, now, round=self)
            copies.append(copy)
            return copy

        self._left = len(mailboxes)
        commit = ground.ledger.prepare(Publish(message, mailboxes, moved=True, make_entry=make_copy), *kept, now=now)
        self._copies = list(zip(mailboxes, copies, strict=True))

        def then(error: StoreError | None) -> None:
            if error is not None:
                self._left = 0
                self._copies.clear()
            if on_written is not None:
                on_written(error)
            if error is not None:
                self._on_end()

        ground.ledger.carry_out(commit, now, then)
        ground.tell(commit)

    def note_end(self, outcome: Outcome) -> None:
        """Take the news that a copy has ended."""
        self._left -= 1
        if self.outcome in (None, "acked"):
            self.outcome = outcome
        if not self._left:
            self._copies.clear()
            self._on_end()

    def cancel(self, ground: Ground, scheduler: Scheduler) -> None:
        """End what has not been handed out, and cancel the handlers that have it; what consumers pulled is theirs."""
        for mailbox, copy in list(self._copies):
            if copy.state is State.LEASED:
                scheduler.overtake(copy.message, mailbox)
            elif (copy.state is State.READY and copy.queued) or copy.state in (State.ASIDE, State.DELAYED, State.POSTPONED):
                ground.tell(ground.ledger.commit(Withdraw(mailbox, copy), now=ground.now()))
        ground.look_idle()
