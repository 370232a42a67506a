"""An actor as the scheduler sees it: a mailbox, a handler, slots, and why it may not run just now.

States: resting (nothing to look at; its mailbox is armed and will tell), listed (in the ready queue), running (`running`
of `slots` workers are at it; it can be listed at the same time), closed (paused, stopped, without its instance, on standby
behind the active one of its mailbox, or held until mailboxes that its turns overfilled have room again).  Never listed twice.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Protocol, cast

import anyio
from msgspec import Struct

from flowmesh._core.commits import Commit, Owner
from flowmesh._core.entry import Entry
from flowmesh._core.gates import Gates
from flowmesh._core.ledger import Lodging
from flowmesh._core.mailbox import Mailbox
from flowmesh._runtime.classes import ClassHandler
from flowmesh._runtime.gathering import Gathering
from flowmesh._runtime.handler import Handler
from flowmesh._runtime.machines import Machines
from flowmesh._runtime.parking import Waiter
from flowmesh._runtime.signature import check_provided
from flowmesh.errors import InvalidHandler
from flowmesh.message import Message
from flowmesh.policies import Autoscale, Batch, Debounce, Gate, Restart, Retry

__all__ = ["Cell", "Keyed", "Keying", "Pool"]


_NOBODY: Final = cast("set[Any]", frozenset())
_NO_WATCHERS: Final = cast("dict[object, Callable[[], None]]", MappingProxyType({}))
_NO_PROGRESS: Final = cast("dict[str, tuple[float, float | None]]", MappingProxyType({}))
"""What an actor has until it needs more: most never do, and an empty set weighs as much as the rest of it."""


class Pool(Protocol):
    """The workers, as an actor sees them. `waking`: one is on its way. `yielding`: so many will be back from their yield."""

    ready: deque["Cell"]
    waking: bool
    yielding: int

    def wake_one(self) -> None:
        """Send a worker to look at `ready`. Not once stopping; every actor is closed then."""
        ...


class Keeping(Protocol):
    """The keeper of a class actor's instance. `task`: its own, once it runs."""

    task: Any

    @property
    def has_entered(self) -> bool:
        """It has entered the instance's lifespan."""
        ...

    async def leave(self) -> None:
        """Let it leave the instance's lifespan, once its handlers have ended, and wait for that."""
        ...


class Scaling(Protocol):
    """What lets the width of an actor follow its load. `changes`: how often it has changed in this run of the mesh."""

    changes: int

    def wake(self) -> None:
        """Take the news that there may be something to handle."""
        ...

    def reset(self) -> None:
        """Begin anew: a run of the mesh starts."""
        ...


class Incarnate(Protocol):
    """What dies with an incarnation."""

    @property
    def is_pending(self) -> bool:
        """Something of it is still to come."""
        ...

    def clear(self) -> None:
        """Let it die."""
        ...


class Keying(Struct, frozen=True):
    """How a class actor with `by=` keeps its instances.

    One without a message for `idle` seconds is put away, and at most `max_active` are there at once. None: never, no limit.
    """

    idle: float | None = None
    max_active: int | None = None


class Keyed(Lodging, Protocol):
    """The instances of a class actor with `by=`, as the rest of the runtime sees them.

    `put_away`: how many have been. `latest`: the moment at which one of them was used last.
    """

    put_away: int
    latest: float

    @property
    def count(self) -> int:
        """How many there are: those that start and those that leave, too."""
        ...

    @property
    def line(self) -> Mapping[Any, object]:
        """Those that wait until another one has been put away."""
        ...

    @property
    def waiting(self) -> int:
        """How many values wait until another one's instance has been put away."""
        ...

    def of(self, entry: Entry | None) -> Any:
        """Return the instance that a copy in hand is handled by."""
        ...

    def find(self, entry: Entry) -> Any:
        """Return the instance that lives in a copy's lane, or None: it is gone."""
        ...

    def ended(self, entry: Entry) -> None:
        """Take the news that a handler has ended otherwise than by returning."""
        ...

    def renew(self, entry: Entry) -> None:
        """Make the instance that a copy was handled by anew, whatever its policy."""
        ...

    async def leave(self) -> None:
        """Wait until no handler runs, put all instances away, and wait until they are gone."""
        ...

    def clear(self) -> None:
        """Forget them: the run of the mesh has ended."""
        ...


class _Front:
    """What a message touches on its way, side by side in memory (see mailbox.py)."""

    __slots__ = ("accepts", "box", "closed", "function", "is_quick", "listed", "pool", "running", "slots")

    accepts: Any
    box: Mailbox
    closed: bool
    function: Callable[..., Any]
    is_quick: bool
    listed: bool
    pool: "Pool"
    running: int
    slots: int


class Cell(_Front):
    """One actor's place in the scheduler. `closed` is derived: call `reopen` after changing what it depends on.

    `function` and `accepts` are the handler's own, with the provided things given to it. `is_ready`: a class actor's instance
    is there; `keeper`: of it, if it needs one. `leaves_with_asker`: cancelled when its asker leaves. `is_plain`: the handler is
    awaited with the body and nothing else; `is_quick`: and nothing decides who is next but the mailbox. `is_stepped`: it
    changes its context variables, so each message runs in a fresh copy. `lane_of`: gives a copy's lane, or None; `gates`: what
    may hold a copy back, or None; `gathering`: lets messages wait for others, or None; `machines`: of an actor that is a state
    machine; `postpone`: lets its messages wait for a change of state, or None; `needs_ledger`: it has one of these four;
    `only_by`: what gives its lanes, if these are all it has. `width`: handlers at once; `slots` are one more where a gate has
    to look while all run, and keeps the width. `autoscale`: how the width follows the load; `scaler`: what sees to that.
    `middleware`: its own layers; `chain`: all of them, the mesh's too, as one call, or None. `observed`: hand-outs are told to
    observers. `declared_as`: the handle that its declaration is known by. `needs_context`: a turn has a Context, whether or not
    the handler takes it. `restart`: a class actor's policy, `restarts`: how often that made its instance anew.
    `committing`: turns of it that are being written to the store; more than `ahead`, and it waits for them; `latest`: the
    last of them. `rests`: the store did not take what it made. `distrusted`: why its instance, which is ahead of what is saved,
    has to be made anew.
    `is_kept`: it needs a keeper; `judge` is told then when a handler has failed. `reminders`: the timers of its incarnation,
    once it has set one. `watchers`: what is to be done when it has been stopped, by whoever wants it. `keying`: it has an
    instance for each value of `by`, `instances`: they, once it is in a mesh.
    """

    __slots__ = (
        "__dict__",
        "call",
        "chain",
        "committing",
        "declared_as",
        "handler",
        "is_plain",
        "is_ready",
        "latest",
        "leaves_with_asker",
        "name",
        "needs_context",
        "needs_ledger",
        "observed",
        "things",
        "width",
    )

    # What most actors never have stands here: one that has it gets a dict for it, and the others weigh 200 bytes less.
    autoscale: Autoscale | None = None
    by: Callable[[Any], Any] | None = None
    failed: int = 0
    gates: Gates | None = None
    gathering: Gathering | None = None
    distrusted: Exception | None = None
    held_by: set[Mailbox] = _NOBODY
    instances: Keyed | None = None
    is_kept: bool = False
    is_stepped: bool = False
    judge: "Callable[[Any, BaseException, Message], None] | None" = None
    keeper: Keeping | None = None
    keying: Keying | None = None
    lane_of: Callable[[Entry], Any] | None = None
    limiter: anyio.CapacityLimiter | None = None
    machines: Machines | None = None
    middleware: tuple[Callable[[Any, Any], Awaitable[object]], ...] = ()
    only_by: Callable[[Any], Any] | None = None
    paused: bool = False
    postpone: Callable[[Entry], bool] | None = None
    progress: dict[str, tuple[float, float | None]] = _NO_PROGRESS
    reminders: Incarnate | None = None
    restart: Restart | None = None
    restarts: int = 0
    rests: bool = False
    retried: int = 0
    retry: Retry | None = None
    scaler: Scaling | None = None
    standby: bool = False
    stopped: bool = False
    stopping: Sequence[Waiter] = ()
    timeout: float | None = None
    waiting_asks: set[Any] = _NOBODY
    watchers: dict[object, Callable[[], None]] = _NO_WATCHERS

    def __init__(
        self,
        name: str,
        box: Mailbox,
        handler: Handler | ClassHandler,
        *,
        slots: int | Autoscale,
        retry: Retry | None,
        timeout: float | None,
        by: Callable[[Any], Any] | None,
        middleware: tuple[Callable[[Any, Any], Awaitable[object]], ...] = (),
        gates: tuple[Gate, ...] = (),
        gather: Batch | Debounce | None = None,
        restart: Restart | None = None,
        keying: Keying | None = None,
    ) -> None:
        self.name = name
        self.box = box
        self.handler = handler
        self.declared_as: object = None
        self.chain: Callable[[Any, Callable[[], Awaitable[Any]]], Coroutine[Any, Any, Any]] | None = None
        self.observed = self.needs_context = self.is_plain = self.is_quick = self.listed = False
        self.closed = True
        self.running = self.committing = 0
        self.latest: Commit | None = None
        self.running = 0
        self.call: Callable[..., Any] | None = None
        self.things: Mapping[Any, Any] | None = None
        self.is_ready = not isinstance(handler, ClassHandler)
        self.width = slots.min if isinstance(slots, Autoscale) else slots
        if isinstance(slots, Autoscale):
            self.autoscale = slots
        if retry is not None:
            self.retry = retry
        if timeout is not None:
            self.timeout = timeout
        if middleware:
            self.middleware = middleware
        if restart is not None:
            self.restart = restart
        if keying is not None:
            self.keying = keying
        elif isinstance(handler, ClassHandler) and (handler.hooks is not None or restart is not None):
            self.is_kept = True
        if gates:
            self.gates = Gates(gates, body_of=self.body_of, slots=self.width)
        if by is not None:
            self.by, self.lane_of = by, self._lane_of
        if gather is not None:
            self.gathering = Gathering(self, gather)
            self.lane_of = self.gathering.lane_of
        if isinstance(handler, ClassHandler) and handler.is_machine:
            self.machines = Machines(self, handler)
            self.postpone = self.machines if handler.postpones else None
        self.slots = self._slots_of(self.width)
        self.needs_ledger = by is not None or bool(gates) or gather is not None or self.postpone is not None
        if by is not None and not gates and gather is None and self.postpone is None:
            self.only_by = by
        self.settle_call()

    @property
    def actor(self) -> "Cell":
        """The actor that it is; of one of its instances, the actor too."""
        return self

    @property
    def owner(self) -> Owner:
        """Whose its saved state is."""
        return Owner(self.name)

    @property
    def watcher(self) -> object:
        """Who it is among those that watch another actor."""
        return self

    def __call__(self) -> None:
        """Take the news that the mailbox has something. A call of the actor itself: one object less on a message's way."""
        if not (self.closed or self.listed) and self.running < self.slots:
            self.listed = True
            pool = self.pool
            pool.ready.append(self)
            if not (pool.waking or pool.yielding):
                pool.wake_one()

    def set_width(self, width: int) -> None:
        """Let so many handlers run at once; tell the gates as well, and whoever serves it."""
        self.width = width
        self.slots = self._slots_of(width)
        if self.limiter is not None:
            self.limiter.total_tokens = self.slots

    def _slots_of(self, width: int) -> int:
        return width + 1 if self.gates is not None and self.gates.slots is not None else width

    @property
    def ahead(self) -> int:
        """Turns that may be on their way to the store while it is handed more; none of a machine, whose state they change.

        Of one with an instance for each value, the lane sees to that.
        """
        return 0 if self.machines is not None and self.keying is None else self.width

    def hold(self, mailbox: Mailbox) -> None:
        """Hand it nothing more because of this mailbox."""
        if self.held_by is _NOBODY:
            self.held_by = set()
        self.held_by.add(mailbox)
        self.reopen()

    def asks_waiting(self) -> set[Any]:
        """Return the asks that wait for room in its mailbox, to be changed."""
        if self.waiting_asks is _NOBODY:
            self.waiting_asks = set()
        return self.waiting_asks

    def stoppers(self) -> list[Waiter]:
        """Return who waits until it has nothing in hand, to be changed."""
        if not isinstance(self.stopping, list):
            self.stopping = []
        return self.stopping

    def watch(self, watcher: object, tell: Callable[[], None]) -> None:
        """Call this when the actor has been stopped; once for each watcher."""
        if self.watchers is _NO_WATCHERS:
            self.watchers = {}
        self.watchers[watcher] = tell

    def note_progress(self, message_id: str, done: float, total: float | None) -> None:
        """Note how far the handler of a message says that it is."""
        if self.progress is _NO_PROGRESS:
            self.progress = {}
        self.progress[message_id] = (done, total)

    def settle_call(self) -> None:
        """Work out what the handler is called with, and whether it can be awaited directly."""
        handler = self.handler
        self.function = handler.function if self.call is None else self.call
        self.leaves_with_asker = handler.leaves_with_asker
        # A batch is a list of bodies that were converted when they were gathered.
        takes_one = handler.takes_body and (self.gathering is None or not self.gathering.is_batch)
        self.accepts = handler.accepts if takes_one else object
        self.needs_context = handler.context_as is not None or self.chain is not None or self.observed
        self.is_plain = (
            handler.is_async and handler.takes_body and not self.needs_context and self.timeout is None and not self.is_stepped
        )
        self.is_quick = self.is_plain and not self.needs_ledger

    def give(self, things: Mapping[Any, Any]) -> None:
        """Give a function actor what it asks for, for this run of the mesh."""
        self.things = things
        if isinstance(self.handler, Handler):
            self.call = self.handler.bind(things)
            self.settle_call()

    def make_instance(self) -> None:
        """Make the instance of a class actor; nothing for a function. One with `by=` makes each when it is needed."""
        if self.keying is not None:
            self.is_ready = True
        elif isinstance(self.handler, ClassHandler):
            self.set_instance(self.handler.make(self.things or {}))

    def set_instance(self, instance: object) -> None:
        """Let a class actor's instance handle its messages; call `reopen` then."""
        assert isinstance(self.handler, ClassHandler)
        self.call = self.handler.bind(instance, self.things or {})
        self.is_ready = True
        if self.distrusted is not None:
            self.distrusted = None
        self.settle_call()

    def take_back(self) -> None:
        """Forget what `give` and `set_instance` gave, and what this run of the mesh has asked of it."""
        self.end_incarnation()
        self.things = self.call = None
        if self.keeper is not None:
            self.keeper = self.judge = None
        if self.instances is not None:
            self.instances.clear()
        if self.machines is not None:
            self.machines.release()  # of machines that were put away
        if self.gathering is not None:
            self.gathering.release()
        if self.rests or self.distrusted is not None:
            self.rests, self.distrusted = False, None
        self.is_ready = isinstance(self.handler, Handler)
        if self.watchers:
            self.watchers = _NO_WATCHERS
        self.settle_call()

    def end_incarnation(self) -> None:
        """Forget the instance, and let its timers die with it."""
        if self.reminders is not None:
            self.reminders.clear()
        if isinstance(self.handler, ClassHandler):
            self.call = None
            self.settle_call()

    @property
    def has_in_hand(self) -> bool:
        """A handler of it runs, or what one has done is being written."""
        return self.running > 0 or self.committing > 0

    def reopen(self) -> bool:
        """Work out whether it may be handed messages; True if it may."""
        self.closed = (
            self.paused
            or self.stopped
            or self.standby
            or not self.is_ready
            or bool(self.held_by)
            or self.committing > self.ahead
            or self.rests
            or self.distrusted is not None
        )
        return not self.closed

    def resolve(self) -> None:
        """Evaluate an annotation that named something not yet defined when the actor was declared.

        Raises:
            InvalidHandler: it still is not.
        """
        try:
            self.handler.resolve()
        except NameError as error:
            raise InvalidHandler(f"actor {self.name!r} annotates its body with a name that is not defined: {error}") from error
        if self.things is not None and isinstance(self.handler, Handler):
            check_provided(self.name, self.handler.required, self.things)
            self.call = self.handler.bind(self.things)
        self.settle_call()

    def body_of(self, entry: Entry) -> Any:
        """Return a copy's body as the handler takes it; converted once, unless another actor on its mailbox takes another type.

        Raises:
            MalformedMessage: it cannot be converted.
            InvalidHandler: as `resolve`.
        """
        handler = self.handler
        if entry.body is None or not isinstance(entry.body, handler.accepts if handler.takes_body else object):
            if not handler.is_resolved:
                self.resolve()
            body = entry.message.body
            accepts = handler.accepts if handler.takes_body else object
            entry.body = body if isinstance(body, accepts) else handler.convert(body)
        return entry.body

    def _lane_of(self, entry: Entry) -> Any:
        assert self.by is not None
        body = entry.message.body
        if entry.body is None and isinstance(body, self.accepts):
            entry.body = body
            return self.by(body)
        return self.by(self.body_of(entry))
