"""An actor as the scheduler sees it: a mailbox, a handler, slots, and why it may not run just now.

States: resting (nothing to look at; its mailbox is armed and will tell), listed (in the ready queue), running (`running`
of `slots` workers are at it; it can be listed at the same time), closed (paused, stopped, or held until mailboxes that its
turns overfilled have room again).  Never listed twice.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import anyio

from flowmesh._core.entry import Entry
from flowmesh._core.mailbox import Mailbox
from flowmesh._runtime.handler import Handler
from flowmesh._runtime.parking import Waiter
from flowmesh.errors import InvalidHandler
from flowmesh.policies import Retry

__all__ = ["Cell", "Pool"]


class Pool(Protocol):
    """The workers, as an actor sees them."""

    ready: deque["Cell"]

    def serve(self) -> None:
        """See to it that a worker looks at `ready`."""
        ...


class _Front:
    """What a message touches on its way, side by side in memory (see mailbox.py)."""

    __slots__ = (
        "accepts",
        "box",
        "closed",
        "function",
        "is_async",
        "is_plain",
        "lane_of",
        "listed",
        "pool",
        "running",
        "slots",
    )


class Cell(_Front):
    """One actor's place in the scheduler. `closed` is derived: call `reopen` after changing what it depends on.

    `function` and `accepts` are the handler's own. `is_plain`: the handler is awaited with the body and nothing else.
    `is_stepped`: it changes its context variables, so each message runs in a fresh copy. `lane_of`: gives a copy's lane, or
    None.
    """

    __slots__ = (
        "by",
        "failed",
        "handler",
        "held_by",
        "is_stepped",
        "limiter",
        "name",
        "paused",
        "progress",
        "retried",
        "retry",
        "stopped",
        "stopping",
        "timeout",
        "waiting_asks",
    )

    def __init__(
        self,
        name: str,
        box: Mailbox,
        handler: Handler,
        *,
        slots: int,
        retry: Retry | None,
        timeout: float | None,
        by: Callable[[Any], Any] | None,
    ) -> None:
        self.name = name
        self.box = box
        self.handler = handler
        self.slots = slots
        self.retry = retry
        self.timeout = timeout
        self.by = by
        self.lane_of: Callable[[Entry], Any] | None = None if by is None else self._lane_of
        self.running = 0
        self.listed = False
        self.paused = False
        self.stopped = False
        self.held_by: set[Mailbox] = set()
        self.closed = True
        self.is_stepped = False
        self.is_plain = False
        self.limiter: anyio.CapacityLimiter | None = None
        self.stopping: list[Waiter] = []
        self.waiting_asks: set[Any] = set()
        self.progress: dict[str, tuple[float, float | None]] = {}
        self.failed = self.retried = 0
        self.pool: Pool | None = None
        self.settle_call()

    def __call__(self) -> None:
        """Take the news that the mailbox has something. A call of the actor itself: one object less on a message's way."""
        if not (self.closed or self.listed) and self.running < self.slots:
            self.listed = True
            pool = self.pool
            assert pool is not None
            pool.ready.append(self)
            pool.serve()

    def settle_call(self) -> None:
        """Work out what the handler is called with, and whether it can be awaited directly."""
        handler = self.handler
        self.function = handler.function
        self.is_async = handler.is_async
        self.accepts = handler.accepts if handler.takes_body else object
        self.is_plain = (
            handler.is_async
            and handler.takes_body
            and handler.context_as is None
            and self.timeout is None
            and not self.is_stepped
        )

    def reopen(self) -> bool:
        """Work out whether it may be handed messages; True if it may."""
        self.closed = self.paused or self.stopped or bool(self.held_by)
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
        self.settle_call()

    def body_of(self, entry: Entry) -> Any:
        """Return a copy's body as the handler takes it, converted at most once.

        Raises:
            MalformedMessage: it cannot be converted.
            InvalidHandler: as `resolve`.
        """
        if entry.body is None:
            if not self.handler.is_resolved:
                self.resolve()
            body = entry.message.body
            entry.body = body if isinstance(body, self.accepts) else self.handler.convert(body)
        return entry.body

    def _lane_of(self, entry: Entry) -> Any:
        assert self.by is not None
        return self.by(self.body_of(entry))
