"""One instance of a class actor with `by=`: the tenant of its value's lane, and what the rest of the runtime knows of it.

Keepers, timers, saved state and the wait-for graph treat it as they treat an actor that has one instance for all messages:
it has the same face as a Cell, as far as they look.  What it has not of its own is its actor's.

    waiting   there are too many: it stands in line until another one has been put away
    starting  its keeper makes it, and makes it anew after a failure; without a keeper it is made at once
    ready     `is_ready`: its lane is open
    leaving   it is put away, or its actor is left: its lane is closed until it is gone
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from flowmesh._core.aside import Tenant
from flowmesh._core.commits import Owner
from flowmesh._core.entry import Entry, State
from flowmesh._core.mailbox import Mailbox
from flowmesh._runtime.cell import Cell, Incarnate
from flowmesh._runtime.classes import ClassHandler
from flowmesh._runtime.parking import Waiter
from flowmesh.message import Message
from flowmesh.policies import Restart

__all__ = ["Acting", "Instance", "check_value", "name_of"]


class Home(Protocol):
    """The instances of one actor, as one of them sees them.

    `line`: those that wait for a place. `now`: the clock. `latest`: the moment at which one of them was used last.
    """

    line: dict[Any, "Instance"]
    now: Callable[[], float]
    latest: float

    def look_at_line(self) -> None:
        """Take the news that an instance may be able to make room for those in line."""
        ...

    def wake(self, waiter: Waiter) -> None:
        """Wake who waits for a change of an instance."""
        ...

    def cancel(self, instance: "Instance") -> None:
        """Cancel the handler that an instance runs, if it runs one: its message goes back."""
        ...


class Instance(Tenant):
    """One instance.

    `idle_since`: when it had a message last, later than any other one by then. `is_waiting`: it stands in line; `is_leaving`:
    it is put away. The rest as of a Cell; `call` is what its messages are handled with.
    """

    __slots__ = (
        "actor",
        "call",
        "home",
        "idle_since",
        "is_leaving",
        "is_waiting",
        "judge",
        "keeper",
        "reminders",
        "stopping",
        "value",
    )

    def __init__(self, actor: Cell, value: Any, home: Home) -> None:
        super().__init__()
        self.actor = actor
        self.value = value
        self.home = home
        self.call: Callable[..., Any] | None = None
        self.is_waiting = self.is_leaving = False
        self.keeper: Any = None
        self.judge: Callable[[Any, BaseException, Message], None] | None = None
        self.reminders: Incarnate | None = None
        self.stopping: list[Waiter] | tuple[()] = ()
        self.idle_since = 0.0

    # As the tenant of a lane

    def freed(self, now: float | None = None) -> None:
        """Take the news that nothing of its lane is in hand."""
        self.is_resting = True
        if self.is_ready:
            home = self.home
            if now is None:
                now = home.now()
            # One moment says when it was used, and in which order: a second thing to keep would come from memory as well.
            self.idle_since = home.latest = now if now > home.latest else math.nextafter(home.latest, math.inf)
            if home.line:
                home.look_at_line()
        else:
            self.look()

    @property
    def may_go(self) -> bool:
        """Nothing needs it: it is ready, without a message, and none of its timers is pending, a state's timeout included.

        What a machine has postponed does not need it: that waits on without it.
        """
        return bool(self.is_resting) and self.may_make_way

    @property
    def may_make_way(self) -> bool:
        """Nothing but messages that have not been handed to it needs it: they may as well wait for the next one."""
        is_free = self.is_ready and self.holder is None
        return is_free and (self.reminders is None or not self.reminders.is_pending)

    # As a Cell

    @property
    def name(self) -> str:
        """Its actor's name, with its value."""
        return name_of(self.actor, self.value)

    @property
    def owner(self) -> Owner:
        """Whose its saved state is."""
        return Owner(self.actor.name, self.value)

    @property
    def watcher(self) -> object:
        """Who it is among those that watch another actor; the next instance of its value is the same."""
        return (self.actor, self.value)

    @property
    def handler(self) -> ClassHandler:
        """What its class takes."""
        handler = self.actor.handler
        assert isinstance(handler, ClassHandler)
        return handler

    @property
    def things(self) -> Mapping[Any, Any] | None:
        """What is provided."""
        return self.actor.things

    @property
    def box(self) -> Mailbox:
        """The mailbox of all instances."""
        return self.actor.box

    @property
    def restart(self) -> Restart | None:
        """By which failures are judged."""
        return self.actor.restart

    @property
    def restarts(self) -> int:
        """How often instances of its actor have been made anew."""
        return self.actor.restarts

    @restarts.setter
    def restarts(self, count: int) -> None:
        self.actor.restarts = count

    @property
    def running(self) -> int:
        """How many of its handlers run."""
        return int(self.in_hand is not None)

    @property
    def has_in_hand(self) -> bool:
        """A handler of it runs, or what one has done is being written."""
        return self.running > 0 or self.committing > 0

    @property
    def committing(self) -> int:
        """How many of its turns are being written to the store."""
        return int(isinstance(self.holder, Entry) and self.holder.state is State.SETTLING)

    @property
    def width(self) -> int:
        """How many may run at once."""
        return 1

    @property
    def paused(self) -> bool:
        """Its actor is."""
        return self.actor.paused

    @property
    def stopped(self) -> bool:
        """Its actor is."""
        return self.actor.stopped

    @property
    def standby(self) -> bool:
        """Its actor is."""
        return self.actor.standby

    @property
    def held_by(self) -> set[Mailbox]:
        """What holds its actor."""
        return self.actor.held_by

    @property
    def progress(self) -> dict[str, tuple[float, float | None]]:
        """What running handlers of its actor say of how far they are."""
        return self.actor.progress

    def note_progress(self, message_id: str, done: float, total: float | None) -> None:
        """Note how far the handler of a message says that it is."""
        self.actor.note_progress(message_id, done, total)

    def stoppers(self) -> list[Waiter]:
        """Return who waits until it has nothing in hand, to be changed."""
        if not isinstance(self.stopping, list):
            self.stopping = []
        return self.stopping

    def look(self) -> None:
        """Let those look who wait until it has nothing in hand."""
        for waiter in self.stopping:
            self.home.wake(waiter)

    def set_instance(self, instance: object) -> None:
        """Let this thing handle its messages; call `open` then."""
        self.call = self.handler.bind(instance, self.things or {})
        self.is_ready = True

    def end_incarnation(self) -> None:
        """Forget the thing, and let its timers die with it."""
        if self.reminders is not None:
            self.reminders.clear()
        self.call = None

    def open(self) -> None:
        """Let its messages be handed out, once it is ready."""
        if self.is_ready:
            self.box.open_lane(self)

    def reopen(self) -> bool:
        """Say whether it may be handed messages: its lane looks at `is_ready` itself."""
        return self.is_ready

    def cancel(self) -> None:
        """Cancel the handler that it runs: its message goes back."""
        self.home.cancel(self)


Acting = Cell | Instance
"""What acts: an actor, or one instance of several."""


def name_of(actor: Cell, value: object) -> str:
    """Return what an instance is called: `totals[42]`."""
    text = str(value)
    return f"{actor.name}[{text if len(text) <= 40 else text[:37] + '...'}]"


def check_value(actor: Cell, value: object, body: object) -> None:
    """Refuse a message to one instance that is another one's, or that no value can be found for.

    Raises:
        ValueError: naming both values.
    """
    assert actor.by is not None
    try:
        found = actor.by(body)
    except Exception as error:
        raise ValueError(f"by= of actor {actor.name!r} gives no value for {body!r:.80}: {error}") from error
    if found != value:
        raise ValueError(
            f"{body!r:.80} is for {name_of(actor, found)}, not for {name_of(actor, value)}: by= gives {found!r}; "
            f"tell actor {actor.name!r} itself, or change the message"
        )
