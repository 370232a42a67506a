"""Messages of an actor to itself: the timers of an incarnation, and the news that another actor has stopped.

They enter its mailbox as what the mesh itself moves: they never wait and are never refused.  A timer dies with the
incarnation that has set it, and so does its message as long as no handler has been given it.  At the drain none fires.
`mesh.timers` shows them beside the deferred messages.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar, Final

from msgspec.structs import replace

from flowmesh._core.commits import Publish, Withdraw
from flowmesh._core.entry import Entry, State
from flowmesh._core.timers import Timer
from flowmesh._runtime.cell import Cell
from flowmesh._runtime.composing import compose, origin_of
from flowmesh._runtime.ground import Ground, Phase
from flowmesh._runtime.instance import Acting, Instance, check_value
from flowmesh._runtime.position import StateTimeout
from flowmesh.errors import InvalidBinding, NotFound, PreconditionFailed, WrongBody
from flowmesh.message import PLAIN, Message, Properties

__all__ = ["Alarm", "Reminders", "check_own_body", "check_watched", "reminders_of", "watch"]

_WAITING: Final = (State.READY, State.ASIDE)


class Reminders:
    """The timers of one incarnation, by name; a second one of a name replaces the first. `cell`: whose it is."""

    def __init__(self, ground: Ground, cell: Acting) -> None:
        self._ground = ground
        self.cell = cell
        self._timers: dict[str, Timer] = {}
        self._fired: deque[tuple[str, Entry]] = deque()  # those that no handler has been given yet, the oldest first

    @property
    def is_pending(self) -> bool:
        """One of them has not fired, or no handler has been given its message yet."""
        self._forget_taken()
        return bool(self._timers or self._fired)

    def set(self, name: str, delay: float, body: Any, parent: Message | None) -> None:
        """Let a message enter its mailbox `delay` seconds from now."""
        self.cancel(name)
        alarm = Alarm(self, name, body, parent)
        self._timers[name] = self._ground.ledger.timers.set(self._ground.now() + delay, alarm)

    def fire(self, alarm: "Alarm", now: float) -> None:
        """Let the message of a timer that is due enter its mailbox."""
        number = self._timers.pop(alarm.name).id
        if self._ground.phase is Phase.RUNNING and not self.cell.stopped:
            self._forget_taken()
            entry = enter(self._ground, self.cell, alarm.body, alarm.parent, now, serial=number)
            self._fired.append((alarm.name, entry))

    def preview(self, alarm: "Alarm", number: int, wall: float) -> Message:
        """Return what will enter the mailbox when a timer fires at that time of the wall clock; its trace is made then."""
        ground, parent = self._ground, alarm.parent
        correlation_id = None if parent is None else parent.properties.correlation_id
        return Message(
            ground.prefix,
            number,
            alarm.body,
            ground.router.default_exchange.name,
            self.cell.box.name,
            wall,
            origin_of(parent, ground.prefix),
            PLAIN if correlation_id is None else Properties(correlation_id=correlation_id),
        )

    def cancel(self, name: str) -> bool:
        """Let the timer of this name not fire, and its message not be handled; False if it is too late or there is none."""
        timer = self._timers.pop(name, None)
        if timer is not None:
            return self._ground.ledger.timers.cancel(timer)
        self._forget_taken()
        found = [item for item in self._fired if item[0] == name]
        for item in found:
            self._fired.remove(item)
        withdrawn = [self._withdraw(entry) for _, entry in found]
        return any(withdrawn)

    def clear(self) -> None:
        """Let all of them die: the incarnation has ended."""
        for timer in self._timers.values():
            self._ground.ledger.timers.cancel(timer)
        self._timers.clear()
        while self._fired:
            self._withdraw(self._fired.popleft()[1])

    def _withdraw(self, entry: Entry) -> bool:
        if entry.state not in _WAITING or entry.redelivered:
            return False  # A handler has been given it: it is a message like any other.
        ground = self._ground
        ground.tell(ground.ledger.commit(Withdraw(self.cell.box, entry), now=ground.now()))
        ground.look_idle()
        return True

    def _forget_taken(self) -> None:
        while self._fired and self._fired[0][1].state not in _WAITING:
            self._fired.popleft()


class Alarm:
    """What a timer of an incarnation does when it is due. `body`: of the message, whose serial is the number of the timer."""

    __slots__ = ("_reminders", "body", "name", "parent")

    def __init__(self, reminders: Reminders, name: str, body: Any, parent: Message | None) -> None:
        self._reminders = reminders
        self.name = name
        self.body = body
        self.parent = parent

    def __call__(self, now: float) -> None:
        self._reminders.fire(self, now)

    @property
    def is_own(self) -> bool:
        """It is the runtime's: the timeout of a machine's state."""
        return isinstance(self.body, StateTimeout)

    @property
    def actor(self) -> str:
        """Who has set it."""
        return self._reminders.cell.name

    def message(self, number: int, wall: float) -> Message:
        """Return the message that the timer of this number will let enter, as of then."""
        return self._reminders.preview(self, number, wall)

    def cancel(self) -> None:
        """Let it not fire."""
        self._reminders.cancel(self.name)
        cell = self._reminders.cell
        if isinstance(cell, Instance) and cell.home.line:
            cell.home.look_at_line()  # It may have been what kept the instance.


class Reminder(Entry, eq=False):
    """A copy that means nothing to another incarnation, let alone another process."""

    fleeting: ClassVar[bool] = True


class OwnReminder(Reminder, eq=False):
    """One whose body is of the runtime, and nothing that a `by=` could read: a state's timeout."""

    is_own: ClassVar[bool] = True


def reminders_of(ground: Ground, cell: Acting) -> Reminders:
    """Return the timers of an actor, or of one of its instances."""
    if not isinstance(cell.reminders, Reminders):
        cell.reminders = Reminders(ground, cell)
    return cell.reminders


def watch(ground: Ground, cell: Acting, other: Cell, body: Any, parent: Message | None) -> None:
    """Let a message enter an actor's mailbox when another one has stopped; at once if it has. Watching again replaces it."""
    tell = _teller(ground, cell.actor, body, parent)
    if other.stopped:
        tell()
    else:
        other.watch(cell.watcher, tell)


def check_watched(ground: Ground, cell: Acting, actor: object) -> Cell:
    """Return the actor that is to be watched; refuse what cannot be.

    Raises:
        TypeError: it is no actor, or one instance of one.
        PreconditionFailed: it would watch itself.
        InvalidBinding: it is of another mesh.
        NotFound: its mailbox has been deleted.
    """
    other = getattr(actor, "cell", None)
    if not isinstance(other, Cell):
        raise TypeError(f"watch takes an actor, not {actor!r:.80}: only actors are told of")
    if not hasattr(actor, "stop"):
        raise TypeError(
            f"{actor!r:.80} cannot be watched: an instance is put away and made anew as its messages come; "
            f"watch actor {other.name!r} itself"
        )
    if other is cell.actor:
        raise PreconditionFailed(f"actor {other.name!r} cannot watch itself: a stopped actor handles nothing")
    if not other.stopped:
        if other.box.deleted:
            raise NotFound(f"the mailbox of actor {other.name!r} has been deleted: it handles nothing any more; stop() it")
        if not ground.router.has_mailbox(other.box):
            raise InvalidBinding(f"actor {other.name!r} is of another mesh: watch one of this mesh")
    return other


def check_own_body(cell: Acting, body: Any) -> None:
    """Refuse a message that the actor could not be given.

    Raises:
        WrongBody: naming what it takes.
        ValueError: it would be given to the instance of another value.
    """
    if not cell.handler.is_resolved:
        cell.actor.resolve()
    if not isinstance(body, cell.handler.accepts):
        raise WrongBody(
            f"actor {cell.name!r} takes {cell.handler.wanted}, not {type(body).__qualname__}: {repr(body)[:80]}; "
            "it cannot send itself what it does not take"
        )
    if isinstance(cell, Instance):
        check_value(cell.actor, cell.value, body)


def enter(ground: Ground, cell: Acting, body: Any, parent: Message | None, now: float, *, serial: int | None = None) -> Entry:
    """Put a message into an actor's own mailbox, and return its copy. `serial`: the message's, if it has one already."""
    box = cell.box
    message = compose(
        ground, body, exchange=ground.router.default_exchange.name, key=box.name, options={}, parent=parent, now=now
    )
    if serial is not None:
        message = replace(message, serial=serial)
    made: list[Entry] = []

    def make_entry(message: Message) -> Entry:
        made.append((OwnReminder if isinstance(body, StateTimeout) else Reminder)(message, now))
        if isinstance(cell, Instance):
            made[0].lane = cell.value
        return made[0]

    ground.tell(ground.ledger.commit(Publish(message, (box,), moved=True, make_entry=make_entry), now=now))
    return made[0]


def _teller(ground: Ground, cell: Cell, body: Any, parent: Message | None) -> Callable[[], None]:
    def tell() -> None:
        if not cell.stopped and not cell.box.deleted:
            enter(ground, cell, body, parent, ground.now())

    return tell
