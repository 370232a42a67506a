"""The ports: what the runtime asks of the outside world, as contracts in prose.

An adapter is done when the shared tests of its port pass on it.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from msgspec import Struct

from flowmesh._core.entry import Outcome
from flowmesh._core.records import Batch, Contents, Row
from flowmesh.errors import StoreError
from flowmesh.message import DeathReason, Durability, Message

__all__ = ["Clock", "CommitSummary", "Ending", "Observer", "Store", "Tracing", "TracingStatistics", "Turn", "WatchableClock"]


class Clock(Protocol):
    """The only source of time for a mesh.

    Adapters: the running event loop's clock (the default) and `flowmesh.testing.VirtualClock`.
    """

    def start(self) -> None:
        """Bind to the running event loop; called once at every start of a mesh, inside its loop. Must not block."""
        ...

    def now(self) -> float:
        """Return monotonic seconds: never goes back, starts anywhere. Called once or more per message: must be cheap."""
        ...

    def wall(self) -> float:
        """Return wall-clock seconds since the epoch; may jump in either direction (see WatchableClock)."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return once `now()` has grown by at least `seconds`; a checkpoint also when `seconds` is zero or less.

        Cancellation: leaves nothing behind.
        """
        ...


class WatchableClock(Clock, Protocol):
    """A Clock that may know when its wall clock jumps. With any other, a mesh looks again every 30 s while it has to."""

    def watch_jumps(self, call: Callable[[], None], /) -> Callable[[], None] | None:
        """Call this in the loop's thread whenever the wall clock has jumped, until what is returned is called.

        Returns:
            what ends the watch; None if jumps go unnoticed.
        """
        ...


class Store(Protocol):
    """What outlives a mesh. Adapters: `flowmesh.stores` (memory, SQLite).

    What a store promises its mesh:

    * A batch is written whole or not at all, batches in the order in which they were given. `done` of each is called once, in
      that order, when it is as safe as `durability` says, or with the error: from any thread, and never within `append`.
      Several batches may be made safe at once (group commit).
    * What was confirmed is there when the store is opened again. A batch that was not confirmed is there whole, or not.
    * A row is given back as the same bytes. One that is not what was written is quarantined: kept, counted, reported in the log
      of the store, and never given to anybody.
    * After an error that leaves open what is on disk (an fsync that failed, a file that is not a database any more) every
      further batch and read ends with that error until the store is opened anew. StoreFull is not such an error: a batch
      that does not grow is tried again on its own, from a reserve, and the next one that grows finds out whether there is room.
    * One process at a time owns what is stored; `open` in another one raises StoreLocked within a second. In a fork of the
      owner every call raises ForkedProcessError, and changes nothing.

    What a mesh promises its store: `open`, then `append` and `read` from the mesh's thread only, then `close`; and the same
    again. No batch is given while `close` runs.
    """

    @property
    def durability(self) -> Durability:
        """What a confirmed batch survives: "process" its process, "power" the machine too, "none" neither."""
        ...

    def open(self) -> Contents:
        """Take possession of what is stored and say what is there. May block: called in a worker thread.

        Raises:
            StoreLocked: another process owns it.
            StoreCorrupt: it is not a store, or not one that can be read, or of a newer version.
            StoreError: it cannot be opened; the reason is named.
        """
        ...

    def append(self, batch: Batch, /) -> None:
        """Write a batch, soon. Never blocks.

        Raises:
            ForkedProcessError: this is a fork of the owner.
        """
        ...

    def read(self, first: int, last: int, /, *, limit: int, done: Callable[[list[Row] | StoreError], None]) -> None:
        """Read the first copies with numbers from `first` to `last`, in order, and mark them: they may be handed out.

        In its turn among the batches: what was appended before is seen, what comes later is not. The marks of the lines
        that they are of are raised to them, as safe as a batch, before `done` is called with them. Fewer than `limit` mean
        that there are no more. `done` is called once, from any thread, never within `read`.

        Raises:
            ForkedProcessError: this is a fork of the owner.
        """
        ...

    def close(self) -> None:
        """Let go of what is stored, once everything that was given has been carried out. May block. Idempotent."""
        ...


class CommitSummary(Struct, frozen=True):
    """What one commit did, all of it in one step.

    `entered`: copies that entered. `settled`: copies that ended. `returned`: copies that went back, to be handed out again.
    `deferred`: messages that wait for their time from now on.
    """

    entered: int
    settled: int
    returned: int
    deferred: int


class Observer(Protocol):
    """Is told what becomes of each copy of a message, at fixed points of its life. Adapters: metrics, audits, test probes.

    Subclass it and write the points that you want; a point that is not written is not asked. A class of your own with some of
    these methods will do as well.

    What a mesh promises its observers:

    * Each point is told after the fact, once, and in the order in which things happened; several observers in the order in
      which they were given. A commit's points are told when all of it is done, and then `committed`.
    * Every copy that enters is told as `entered` once and as `settled` once; `handed_out` and `retried` come in between, as
      often as it is handed out, and `postponed` and `resumed`. With a store, a copy that an earlier process let in is not told
      as `entered` again, and copies that lie on disk are purged without being told one by one. `mesh.dead_letters` is a mailbox
      too, of that name: what rests there has entered it.
    * A message that waits for its time (`delay=`, `at=`) enters when that has come.

    What an observer promises its mesh:

    * A method is a plain `def`. It is called in the thread of the mesh, on the way of the message, and must not block: the mesh
      stands still until it returns.
    * It changes nothing. A `_nowait` send is possible, and is told to the observers in its turn, after all that came before it.
      An observer that answers what comes of its own sends with further sends is cut off after a few rounds.
    * An observer that raises is logged with its traceback, counted in `mesh.statistics().observers_failed`, and asked no more
      until the mesh is started again. The message is not disturbed. Only what is no Exception (SystemExit) stops the mesh.
    """

    # Each returns explicitly: a method of a Protocol that has no statement is abstract for type checkers.

    def entered(self, message: Message, mailbox: str, /) -> None:
        """A copy has entered a mailbox; one that is left out by a drop policy enters, and is settled in the same step."""
        return

    def handed_out(self, message: Message, mailbox: str, /, *, actor: str | None, attempt: int) -> None:
        """A copy is handed to a handler (before its middleware), or to a manual consumer, for which `actor` is None.

        `attempt`: 1, and one more for each exception or time limit before.
        """
        return

    def settled(self, message: Message, mailbox: str, /, *, outcome: Outcome) -> None:
        """A copy has ended, and is counted: acked, dead, expired, dropped, withdrawn or purged.

        An ask whose handler failed for good is acked: its asker has the exception.
        """
        return

    def dead(self, message: Message, mailbox: str, /, *, reason: DeathReason, detail: str) -> None:
        """A copy has become a dead letter; told after `settled(..., outcome="dead")`.

        `detail` is the failure in one line, or what a Reject said.
        """
        return

    def retried(self, message: Message, mailbox: str, /, *, attempt: int, delay: float) -> None:
        """A copy that was handed out goes back to its place, to be handed out again after `delay` seconds (0: at once).

        `attempt` is that of the hand-out to come. It has grown by one after an exception or a time limit, and is the same after
        RetryAfter, a manual consumer's nack, or a stop of the mesh.
        """
        return

    def postponed(self, message: Message, mailbox: str, /, *, actor: str, state: str) -> None:
        """A state machine wants a copy later, in another state: it is leased, and in nobody's hands, until `resumed`.

        Not told as handed out, for no handler has been given it. It may be settled without having been resumed: withdrawn.
        """
        return

    def resumed(self, message: Message, mailbox: str, /) -> None:
        """A postponed copy goes back to its place: the state has changed, or its machine is gone."""
        return

    def committed(self, summary: CommitSummary, /) -> None:
        """A commit is done; its points have been told. One that changed nothing is not told."""
        return


class Ending(Struct, frozen=True):
    """How a turn ended. `outcome`: one word for what became of the delivery; `error`: what its handler let out, or None."""

    outcome: str
    error: BaseException | None = None


class TracingStatistics(Struct, frozen=True):
    """What became of spans and contexts of one run of a mesh.

    `spans` have been handed to the tracer's processors, `waiting` will be, `dropped` found the buffer full. `malformed`
    headers looked like a trace context and were none.
    """

    spans: int
    waiting: int
    dropped: int
    malformed: int


class Turn(Protocol):
    """A worker, as far as a tracer sees it: what it has in hand just now.

    `span` is what `Tracing.begin` returned for that delivery.
    """

    message: Message | None
    span: Any

    @property
    def mailbox(self) -> str | None:
        """The mailbox that it drains."""
        ...


class Tracing(Protocol):
    """What a mesh asks of tracing. Everything is called in the mesh's thread but `carried`, and nothing may block or raise.

    `sender`: gives what the calling task's context holds for tracing; false when there is nothing, which must be cheap to see.
    `wake`: set by the mesh; to be called when the first span waits to be handed over.

    Sampling comes first: for each delivery the mesh counts down from what `draw` gave. A delivery whose count has run out is
    the one that a new root's sampler would choose; `begin` is called for it, and for each whose message or copy knows
    more than the plain case does. What `begin` returns stays on the worker until `end`; None costs nothing more.
    """

    sender: Callable[[], object]
    wake: Callable[[], None]

    def draw(self) -> float:
        """Return how many deliveries to let pass until the next chosen one: inf for none ever, -inf for every one."""
        ...

    def follow(self, turn: Turn) -> object:
        """Make a worker's deliveries the current span of its task, once for its life; return what `sender` gives there."""
        ...

    def begin_plain(self, actor: str, mailbox: str, message: Message, now: float, /) -> Any:
        """Do what `begin` does, for a chosen message that carries nothing and whose copy knows nothing: most of them."""
        ...

    def begin(
        self,
        actor: str,
        mailbox: str,
        message: Message,
        now: float,
        *,
        chosen: bool,
        first: object | None = None,
        attempt: int = 1,
        asked: bool = False,
    ) -> Any:
        """Note that a handler is about to be called; return the span, or None when nothing is traced.

        Args:
            actor: the actor's name.
            mailbox: the mailbox's.
            message: what it is called with.
            now: mesh clock seconds.
            chosen: the count has run out.
            first: what an earlier hand-out of the same copy has remembered.
            attempt: 1, and one more for each failure before.
            asked: an asker waits for it.
        """
        ...

    def end(self, span: Any, now: float, wall_offset: float, ending: Ending | None = None, /) -> None:
        """Note that the turn is over; without an `ending` it was acked. `wall_offset`: what to add for the wall clock."""
        ...

    def memory(self, span: Any) -> object:
        """Return what a copy that is handed back remembers of its first hand-out."""
        ...

    def carried(self, headers: Mapping[str, Any], *, mailbox: str | None, deferred: bool, in_turn: bool) -> object | None:
        """Return what a message takes along from where it is sent, or None. May be called from a handler's worker thread.

        Args:
            headers: the message's; a W3C `traceparent` among them goes before the current span.
            mailbox: that it goes to, when it is sent straight to one.
            deferred: it is routed later.
            in_turn: it is made in a turn, of whatever mesh.
        """
        ...

    def hand_over(self, is_over: Callable[[], bool]) -> bool:
        """Hand waiting spans to the processors until `is_over`; return whether some still wait."""
        ...

    def statistics(self) -> TracingStatistics:
        """Return the numbers of this moment."""
        ...
