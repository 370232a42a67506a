"""What may change, as data: intents say what somebody wants, a Commit says what will happen.

An intent is turned into changes by `Ledger.prepare`, which checks everything, gives places in order and pins what it
touches; `Ledger.apply` carries the changes out and cannot fail; `Ledger.give_up` takes a prepared commit back.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Literal, Protocol

from msgspec import Struct

from flowmesh._core.entry import NO_LANE, Entry, Outcome, State
from flowmesh._core.exchanges import Exchange
from flowmesh._core.mailbox import Mailbox
from flowmesh._core.records import Batch
from flowmesh.errors import StoreError
from flowmesh.message import DeathReason, Message

__all__ = [
    "Ack",
    "Back",
    "Change",
    "Commit",
    "Dead",
    "Defer",
    "Delay",
    "End",
    "EndPlain",
    "Enter",
    "Expire",
    "Forget",
    "Gone",
    "Intent",
    "Journal",
    "Keep",
    "LeaveOut",
    "Note",
    "Owner",
    "Publish",
    "PublishDue",
    "Purge",
    "Release",
    "Replay",
    "Return",
    "Save",
    "SetTimer",
    "Settle",
    "Supersede",
    "Superseded",
    "Sweep",
    "Verdict",
    "Withdraw",
]

# Verdicts: how a delivery is settled


class Ack(Struct, frozen=True):
    """Done."""


class Back(Struct, frozen=True):
    """Hand it out again, at its place, now or after `delay` seconds; `counted` as a failure, a hand-out, or neither."""

    delay: float = 0.0
    counted: Literal["failure", "handout"] | None = None


class Dead(Struct, frozen=True):
    """Dead letter now."""

    reason: DeathReason
    detail: str = ""


class Gone(Struct, frozen=True):
    """Nobody wants its outcome any more: its asker left while it was being handled."""


class Superseded(Struct, frozen=True):
    """A gate dropped it while it was being handled: a newer one takes its place."""


Verdict = Ack | Back | Dead | Gone | Superseded

# Intents


class Publish(Struct, frozen=True):
    """Put a copy into each of these mailboxes. `moved`: by the mesh itself, never refused.

    `nowait`: a full `wait` mailbox refuses, as a full `reject` mailbox does. `make_entry` makes the copy's entry when
    somebody waits for what becomes of it.
    """

    message: Message
    mailboxes: tuple[Mailbox, ...]
    moved: bool = False
    nowait: bool = False
    make_entry: Callable[[Message], Entry] | None = None


class Settle(Struct, frozen=True):
    """End a lease. `item` is the Entry, or the plain Message (only with Ack)."""

    mailbox: Mailbox
    item: Entry | Message
    verdict: Verdict


class Withdraw(Struct, frozen=True):
    """End a copy that nobody wants any more and that has not started."""

    mailbox: Mailbox
    entry: Entry


class Supersede(Struct, frozen=True):
    """Drop a copy that has not started, or awaits its retry: a newer one stands for it."""

    mailbox: Mailbox
    entry: Entry


class Release(Struct, frozen=True):
    """Make a delayed or postponed copy ready again."""

    mailbox: Mailbox
    entry: Entry


class Expire(Struct, frozen=True):
    """End the ready copies of a mailbox whose time is over."""

    mailbox: Mailbox


class Purge(Struct, frozen=True):
    """End every ready copy, or `only` these; with `delayed`, those that wait for their retry too."""

    mailbox: Mailbox
    delayed: bool = False
    only: tuple[Entry, ...] | None = None


class Replay(Struct, frozen=True):
    """Move a dead letter back into the mailbox it died in, with fresh attempts and its history."""

    entry: Entry
    mailbox: Mailbox


class PublishDue(Struct, frozen=True):
    """Route a deferred message, with the bindings of now. `exchange`: None if it is gone. `timer`: the id of its timer."""

    exchange: Exchange | None
    message: Message
    ttl: float | None = None
    timer: int | None = None


class Defer(Struct, frozen=True):
    """Set a timer that publishes a message when it is due, to the exchange that has its name then."""

    action: PublishDue
    due: float
    on_wall: bool = False


class Owner(Struct, frozen=True):
    """Whose saved state it is: an actor's, or that of its instance for one value of `by=`."""

    actor: str
    value: Any = NO_LANE


class Save(Struct, frozen=True):
    """Replace the saved state of `owner`; `state` is encoded. Intent and change in one: nothing stands against it."""

    owner: Owner
    state: bytes


class Keep(Struct, frozen=True):
    """Keep a value in the store, in place of the one it had; None: none any more. Intent and change in one, as Save."""

    kind: str
    key: str
    value: bytes | None


Intent = Publish | Settle | Withdraw | Supersede | Release | Expire | Purge | Replay | PublishDue | Defer | Save | Keep

# Changes


class Enter(Struct, frozen=True):
    """A copy enters. `is_shelved`: it joins the tail of its mailbox, on disk (see shelf.py)."""

    mailbox: Mailbox
    item: Entry | Message
    is_shelved: bool = False


class LeaveOut(Struct, frozen=True):
    """A copy is left out by a drop policy: entered and ended in one. `reason`: of its death, if its outcome is "dead"."""

    mailbox: Mailbox
    item: Entry | Message
    outcome: Outcome
    reason: DeathReason | None = None


class End(Struct, frozen=True):
    """A copy ends. `reason`, `detail`: of its death, if its outcome is "dead"."""

    mailbox: Mailbox
    entry: Entry
    outcome: Outcome
    was: State
    reason: DeathReason | None = None
    detail: str = ""


class EndPlain(Struct, frozen=True):
    """A leased copy without an entry is acked."""

    mailbox: Mailbox
    message: Message


class Return(Struct, frozen=True):
    """A leased, delayed or postponed copy is ready again."""

    mailbox: Mailbox
    entry: Entry
    was: State
    failures: int
    handouts: int


class Delay(Struct, frozen=True):
    """A leased copy waits until `due`, for `delay` seconds."""

    mailbox: Mailbox
    entry: Entry
    due: float
    failures: int
    handouts: int
    delay: float


class SetTimer(Struct, frozen=True):
    """A timer is set, with this id."""

    defer: Defer
    id: int


class Forget(Struct, frozen=True):
    """A timer that was stored has fired."""

    timer: int


class Sweep(Struct, frozen=True):
    """The tail of a durable mailbox ends as purged: so many copies, with numbers up to `last`."""

    mailbox: Mailbox
    first: int
    last: int
    copies: int


Change = Enter | LeaveOut | End | EndPlain | Return | Delay | SetTimer | Forget | Sweep | Save | Keep


class Note(Struct, frozen=True):
    """Something that a commit did and that somebody should be told: the runtime logs it.

    `unroutable`: nothing is bound at `place`, an exchange. `cut`: a dead-letter cycle was cut at `place`, a mailbox.
    `evicted`: an old dead letter made room for a new one. `buried`: a dead letter rests in `mesh.dead_letters`.
    """

    kind: Literal["unroutable", "cut", "evicted", "buried"]
    place: str
    message: Message


class Commit:
    """What will happen, prepared: all of it or none.

    `counts`: for each Publish in the order given, the mailboxes that take a copy and those that leave theirs out.
    `burials`: dead letters and where they go, while the commit is being prepared; `entering`: for each `drop_oldest` mailbox
    a heap of (rank, index in `changes`) of the copies that enter it. `timers`: ids of those it set. `after`: a commit without
    which this one makes no sense: if that one is given up, so is this one. `batch`: what is written of it, while that is on its
    way.
    """

    __slots__ = ("after", "batch", "burials", "changes", "counts", "entering", "notes", "timers")

    def __init__(self) -> None:
        self.after: Commit | None = None
        self.batch: Batch | None = None
        self.burials: deque[tuple[Mailbox, Message]] = deque()
        self.changes: list[Change] = []
        self.counts: list[tuple[int, int]] = []
        self.entering: dict[Mailbox, list[tuple[int, int]]] = {}
        self.notes: list[Note] = []
        self.timers: list[int] = []


class Journal(Protocol):
    """Where commits are written before they are applied, as the ledger sees it.

    `append` may refuse a commit whose bodies cannot be stored; otherwise it is applied, or given up, when it is known to be on
    disk, or not to be: in the order in which it was appended, and `then` is told.
    """

    def append(self, commit: Commit, then: Callable[[StoreError | None], None] | None, /, *, strict: bool) -> bool:
        """Write a commit; False if nothing of it is stored, so that it may be applied at once.

        Raises:
            Unencodable: strict, and a body cannot be stored; the caller gives the commit up.
            StoreError: strict, and the store takes nothing; likewise. Otherwise the commit has been given up.
        """
        ...

    def is_lasting(self, message: Message, /) -> bool:
        """Whether a deferred message is stored."""
        ...

    def check_process(self) -> None:
        """Refuse what a fork of the mesh's process asks for.

        Raises:
            ForkedProcessError: this is one.
        """
        ...

    def read(self, mailbox: Mailbox, /) -> None:
        """Read the next copies of a mailbox's tail; they are given to `Ledger.load`."""
        ...

    def mark(self, mailbox: Mailbox, entry: Entry, /) -> None:
        """Mark a copy by itself: it is about to be handed out. `Ledger.marked` is called then."""
        ...

    def unmark(self, entry: Entry, /) -> None:
        """Take such a mark back: it has not been handed out after all."""
        ...

    def rest(self, mailbox: Mailbox, /) -> None:
        """Hand nothing out of a mailbox for a while: what its turns make cannot be written now."""
        ...
