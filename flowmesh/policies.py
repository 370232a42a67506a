"""What users configure: frozen values, checked where they are made.

Seconds are floats.  A policy says what shall hold; the core decides by it, the runtime only carries the decision out.
"""

import math
from collections.abc import Callable
from typing import Any, Final, Literal, Protocol, TypeAlias, get_args

from msgspec.structs import force_setattr

from flowmesh.checks import Policy, is_number, is_seconds, is_whole, require, require_by, require_kinds

__all__ = [
    "DEFAULT_CAPACITY",
    "Autoscale",
    "Backoff",
    "Batch",
    "Breaker",
    "Debounce",
    "Gate",
    "Limit",
    "MailboxOptions",
    "Named",
    "Once",
    "Overflow",
    "Rate",
    "Restart",
    "Retry",
    "Surplus",
    "name_of",
]

Overflow = Literal["wait", "reject", "drop_oldest", "drop_newest"]
Surplus = Literal["queue", "drop_new", "drop_old", "cancel_running", "keep_newest"]
DEFAULT_CAPACITY: Final = 10_000


class Named(Protocol):
    """An exchange or a mailbox: something declared under a name."""

    @property
    def name(self) -> str:
        """The name."""
        ...


def name_of(thing: Named | str) -> str:
    """Return the name of an exchange or mailbox given as itself or by name."""
    return thing if isinstance(thing, str) else thing.name


class MailboxOptions(Policy, frozen=True):
    """The limits and rules of one mailbox.

    Args:
        capacity: ready copies at which the mailbox is full (at least 1). A gate for new messages, not a wall: what the
            mesh itself moves enters a full `wait` or `reject` mailbox.
        overflow: what happens when it is full. `wait`: awaited senders wait in line, first come first served. `reject`:
            the whole publish raises MailboxFull. `drop_oldest`: the copy that would be handed out next is dropped.
            `drop_newest`: the new copy is left out.
        ttl: seconds a copy may be ready before it expires (None: no limit); the smaller of this and the message's holds.
        priorities: hand out by priority (0 to 255, higher first), then by place; otherwise by place alone.
        dead_letter: the exchange (or its name) that dead copies are published to. Looked up when used; if it is missing
            or routes nowhere the copy rests in `mesh.dead_letters`.
        dead_letter_key: their routing key; None keeps the key they had.
        max_deliveries: hand-outs that may end without a verdict before the copy is a dead letter (`delivery_limit`). With 1 and
            a store, each hand-out is written by itself before its handler starts, one after another.
        single_active: of several consumers (actors, or `consume` blocks) only the first is handed messages, however busy; when
            it stops or leaves, the next takes over. A paused one stays the active one: its messages wait.
        durable: whether its copies are stored. None: if the mesh has a store; True: the mesh must have one; False: never.
        expires: seconds that the mailbox may be unused (no consumer, no `get`, no declaration) while its mesh runs; then it is
            deleted, and its copies end as purged (None: it stays).

    Raises:
        ValueError: a value out of its range, naming it.
    """

    capacity: int = DEFAULT_CAPACITY
    overflow: Overflow = "wait"
    ttl: float | None = None
    priorities: bool = False
    dead_letter: Named | str | None = None
    dead_letter_key: str | None = None
    max_deliveries: int = 20
    durable: bool | None = None
    single_active: bool = False
    expires: float | None = None

    def __post_init__(self) -> None:
        require(is_whole(self.capacity) and self.capacity >= 1, "capacity", "a whole number of at least 1", self.capacity)
        require(self.overflow in get_args(Overflow), "overflow", f"one of {', '.join(get_args(Overflow))}", self.overflow)
        require(self.ttl is None or (is_number(self.ttl) and self.ttl >= 0), "ttl", "zero or more seconds, or None", self.ttl)
        require(
            is_whole(self.max_deliveries) and self.max_deliveries >= 1,
            "max_deliveries",
            "a whole number of at least 1",
            self.max_deliveries,
        )
        require(isinstance(self.single_active, bool), "single_active", "True or False", self.single_active)  # pyright: ignore[reportUnnecessaryIsInstance] - users get it wrong
        require(self.durable in (None, True, False), "durable", "True, False, or None", self.durable)
        lasting = self.expires is None or (is_number(self.expires) and 0 < self.expires < math.inf)
        require(lasting, "expires", "more than zero seconds, or None", self.expires)
        if self.dead_letter_key is not None and self.dead_letter is None:
            raise ValueError("dead_letter_key needs dead_letter: name the exchange that dead letters are published to")
        if self.dead_letter is not None:
            named = isinstance(getattr(self.dead_letter, "name", self.dead_letter), str)
            require(named, "dead_letter", "an exchange or its name, or None", self.dead_letter)
            # One spelling, so that an Exchange and its name declare the same mailbox.
            force_setattr(self, "dead_letter", name_of(self.dead_letter))

    @property
    def dead_letter_name(self) -> str | None:
        """The dead-letter exchange's name, or None."""
        return None if self.dead_letter is None else name_of(self.dead_letter)


class Retry(Policy, frozen=True):
    """How often, and after what delay, a message whose handler failed is handed out again.

    The delay before attempt n+1 is `initial * factor**(n-1)`, at most `maximum` seconds; with jitter "full" it is drawn
    evenly between zero and that (the "full jitter" of the AWS Architecture Blog, 2015), with "none" it is exactly that.

    Args:
        attempts: attempts in all, the first one included.
        initial, maximum: seconds.
        factor: growth from one delay to the next, at least 1.
        jitter: "full" or "none".
        on: exception types that are retried; a time limit is a TimeoutError.
        never: exception types that are not, although `on` names them.

    Raises:
        ValueError: a value out of its range, naming it.
    """

    attempts: int = 5
    initial: float = 0.2
    factor: float = 2.0
    maximum: float = 30.0
    jitter: Literal["full", "none"] = "full"
    on: tuple[type[BaseException], ...] = (Exception,)
    never: tuple[type[BaseException], ...] = ()

    def __post_init__(self) -> None:
        require(is_whole(self.attempts) and self.attempts >= 1, "attempts", "a whole number of at least 1", self.attempts)
        require(is_number(self.initial) and self.initial >= 0, "initial", "zero or more seconds", self.initial)
        require(is_number(self.factor) and self.factor >= 1, "factor", "at least 1", self.factor)
        require(is_number(self.maximum) and self.maximum >= 0, "maximum", "zero or more seconds", self.maximum)
        require(self.jitter in ("full", "none"), "jitter", "'full' or 'none'", self.jitter)
        require_kinds("on", self.on)
        require_kinds("never", self.never)


class Restart(Policy, frozen=True):
    """After which failures a class actor's instance is left and made anew, how soon, and how often before that is too much.

    A failed message is settled first, by its own policy; then the actor is judged. One more restart than `max` within
    `within` seconds is not made: the failure escalates, to the actor's supervision group or to the mesh, which stops with
    RestartLimitReached. One message counts once, however often it is retried, so a poison message never uses up the budget.

    The wait before the nth restart in a row is `initial * factor**(n-1)`, at most `maximum` seconds; with jitter "full" it is
    drawn evenly between zero and that. An instance that has lived longer than the wait before it begins a new row.

    Args:
        max: restarts within `within` seconds, at least 1; None means without limit.
        within: seconds, more than zero.
        initial, maximum: seconds.
        factor: growth from one wait to the next, at least 1.
        jitter: "full" or "none".
        on: exception types after which the instance is made anew; of an exception group each leaf is looked at. After another
            failure of a handler the instance lives on; another failure of a start or a lifespan escalates at once.
        never: exception types that are none of them, although `on` names them.

    Raises:
        ValueError: a value out of its range, naming it.
    """

    max: int | None = 5
    within: float = 30.0
    initial: float = 0.1
    factor: float = 2.0
    maximum: float = 30.0
    jitter: Literal["full", "none"] = "full"
    on: tuple[type[BaseException], ...] = (Exception,)
    never: tuple[type[BaseException], ...] = ()

    def __post_init__(self) -> None:
        is_limit = self.max is None or (is_whole(self.max) and self.max >= 1)
        require(is_limit, "max", "a whole number of at least 1, or None", self.max)
        require(is_number(self.within) and self.within > 0, "within", "more than zero seconds", self.within)
        require(is_number(self.initial) and self.initial >= 0, "initial", "zero or more seconds", self.initial)
        require(is_number(self.factor) and self.factor >= 1, "factor", "at least 1", self.factor)
        require(is_number(self.maximum) and self.maximum >= 0, "maximum", "zero or more seconds", self.maximum)
        require(self.jitter in ("full", "none"), "jitter", "'full' or 'none'", self.jitter)
        require_kinds("on", self.on)
        require_kinds("never", self.never)


Backoff = Retry | Restart
"""A policy whose waits grow."""


class Rate(Policy, frozen=True):
    """A gate: handlers start at most so often; the surplus is held until its time comes.

    Starts are spaced evenly, `per / n` seconds apart, but for a burst after a pause (the generic cell rate algorithm of
    ITU-T I.371). A retry is a start like any other.

    Args:
        n: starts.
        per: in so many seconds; a rate has no default here, for "ten" may be a second, a minute or a day.
        burst: how many may start at once after a pause; None: as many as fall due in 10 ms, at least one, so that the
            steps of a timer do not slow a high rate down.
        by: gives a body's value; each value has the rate for itself. None: one rate for all.

    Raises:
        ValueError: a value out of its range, naming it.
    """

    written = "Rate(10, per=1.0)"

    n: int
    per: float
    burst: int | None = None
    by: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        require(is_whole(self.n) and self.n >= 1, "n", "a whole number of at least 1", self.n)
        require(is_number(self.per) and 0 < self.per < math.inf, "per", "more than zero seconds", self.per)
        fits = self.burst is None or (is_whole(self.burst) and self.burst >= 1)
        require(fits, "burst", "a whole number of at least 1, or None", self.burst)
        require_by(self.by)


class Limit(Policy, frozen=True):
    """A gate: at most so many handlers at once.

    Args:
        n: handlers at once.
        by: gives a body's value; each value has the limit for itself. None: one limit for all.
        surplus: what becomes of a message that finds `n` running. `queue`: it is held until one of them has ended.
            `drop_new`: it is dropped. `drop_old`: up to `n` are held; the oldest of those makes room for one more.
            `keep_newest`: only the newest is held, older ones are dropped. `cancel_running`: the oldest handler that runs
            is cancelled, its message dropped, and the new one starts when that has ended.

    With another surplus than `queue`, messages are looked at when they come, whether or not the actor has a slot free. One
    that comes back (a retry) is not new: `drop_new` holds it, and `cancel_running` drops it rather than a younger one.

    Raises:
        ValueError: a value out of its range, naming it.
    """

    written = "Limit(4)"

    n: int
    by: Callable[[Any], Any] | None = None
    surplus: Surplus = "queue"

    def __post_init__(self) -> None:
        require(is_whole(self.n) and self.n >= 1, "n", "a whole number of at least 1", self.n)
        require_by(self.by)
        require(self.surplus in get_args(Surplus), "surplus", f"one of {', '.join(get_args(Surplus))}", self.surplus)


class Breaker(Policy, frozen=True):
    """A gate: when what the handler needs is away, messages are held instead of failing one by one.

    Closed, it lets all through. After `failures` failures within `within` seconds it opens: it holds all for `pause`
    seconds, then lets one through as a probe. If the probe's handler returns the breaker closes; if it fails, it is open for
    another pause. One that nothing has come to probe for `within` seconds after its pause is closed as well.

    Args:
        failures: how many failed handler calls open it; a time limit and `raise RetryAfter` are, `raise Reject` is none.
        within: seconds in which they come.
        pause: seconds from the opening to the probe, and from a failed probe to the next.
        on: exception types that count as failures.
        never: exception types that do not, although `on` names them.
        by: gives a body's value; each value has a breaker of its own. None: one for all.

    Raises:
        ValueError: a value out of its range, naming it.
    """

    failures: int = 5
    within: float = 60.0
    pause: float = 30.0
    on: tuple[type[BaseException], ...] = (Exception,)
    never: tuple[type[BaseException], ...] = ()
    by: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        require(is_whole(self.failures) and self.failures >= 1, "failures", "a whole number of at least 1", self.failures)
        require(is_number(self.within) and self.within > 0, "within", "more than zero seconds", self.within)
        require(is_number(self.pause) and 0 < self.pause < math.inf, "pause", "more than zero seconds", self.pause)
        require_kinds("on", self.on)
        require_kinds("never", self.never)
        require_by(self.by)


class Once(Policy, frozen=True):
    """A gate: one message of each value; a second one within `ttl` seconds is dropped, and counted.

    The value is claimed when a handler starts. If that does not return, whatever the reason, the value is free again: the
    message's own retry, or another message of the value, may claim it.

    Args:
        by: gives a body's value.
        ttl: seconds from the start for which the value is remembered.

    Raises:
        ValueError: a value out of its range, naming it.
    """

    written = "Once(by=lambda body: body.id)"

    by: Callable[[Any], Any]
    ttl: float = 3600.0

    def __post_init__(self) -> None:
        require_by(self.by, optional=False)
        require(is_number(self.ttl) and self.ttl > 0, "ttl", "more than zero seconds", self.ttl)


Gate: TypeAlias = Rate | Limit | Breaker | Once
"""What may hold a message back before its handler."""


class Autoscale(Policy, frozen=True):
    """Slots that follow the load: `concurrency=Autoscale(1, 32, target=0.5)`.

    Args:
        min, max: fewest and most handlers at once.
        target: seconds; while the oldest ready message has waited longer, slots are doubled. When nothing has been ready
            and a slot free for four times as long, they are halved.

    Raises:
        ValueError: a value out of its range, naming it.
    """

    min: int = 1
    max: int = 32
    target: float = 0.5

    def __post_init__(self) -> None:
        require(is_whole(self.min) and self.min >= 1, "min", "a whole number of at least 1", self.min)
        require(is_whole(self.max) and self.max >= self.min, "max", f"a whole number of at least min ({self.min})", self.max)
        require(is_number(self.target) and 0 < self.target < math.inf, "target", "more than zero seconds", self.target)


class Batch(Policy, frozen=True):
    """Hand messages out several at a time: the handler takes a list of them.

    A batch is handed out when `size` messages are there, when the first of them has waited for `within` seconds, when one
    more would not fit into `max_bytes`, and when the mesh drains. Until then its messages are ready, at their places; from
    then on all of them are leased until the batch is settled.

    Args:
        size: messages in a full batch (at least 1); no batch has more.
        within: seconds that a message waits at most for others, counted from when it entered, or came back.
        by: gives a body's value: each batch has messages of one value, and those of one value are handed out one batch at a
            time, in order. None: all messages are alike, and as many batches run as the actor has slots.
        max_bytes: bytes in a batch: the length of bodies that are bytes, otherwise of their MessagePack encoding by msgspec.
            A single larger message makes a batch of its own.

    Raises:
        ValueError: a value out of its range, naming it.
    """

    written = "Batch(100, 0.5)"

    size: int
    within: float
    by: Callable[[Any], Any] | None = None
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        require(is_whole(self.size) and self.size >= 1, "size", "a whole number of at least 1", self.size)
        require(is_seconds(self.within), "within", "zero or more seconds", self.within)
        require_by(self.by)
        fits = self.max_bytes is None or (is_whole(self.max_bytes) and self.max_bytes >= 1)
        require(fits, "max_bytes", "a whole number of at least 1, or None", self.max_bytes)


class Debounce(Policy, frozen=True):
    """Handle only the latest of the messages of one value, once they have stopped coming.

    The latest is handed out after `quiet` seconds without a newer one, at the latest `max_wait` seconds after the first, and
    when the mesh drains. A message ends as dropped when a newer one of its value is looked at: at once, unless all slots of
    the actor are taken.

    Args:
        quiet: seconds without a newer message, counted from when the latest entered.
        max_wait: seconds after the first message at which the latest is handed out although more are coming.
        by: gives a body's value; messages of one value are handled one at a time. None: all messages have the same.

    Raises:
        ValueError: a value out of its range, naming it.
    """

    written = "Debounce(0.5, 5.0)"

    quiet: float
    max_wait: float
    by: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        require(is_seconds(self.quiet), "quiet", "zero or more seconds", self.quiet)
        require(
            is_number(self.max_wait) and self.max_wait >= self.quiet,
            "max_wait",
            "seconds, at least as many as quiet",
            self.max_wait,
        )
        require_by(self.by)
