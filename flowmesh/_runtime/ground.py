"""What every part of the runtime stands on: the ledger, the clock, parking, the turn budget, the log.

One Ground belongs to one mesh for life; what belongs to one run of it (the parking of its backend, the thread, the context)
is set anew at each start.  No behaviour that waits lives here but `breathe`.
"""

import contextvars
import enum
import logging
import secrets
from collections import deque
from collections.abc import Callable
from threading import get_ident
from typing import Final

from flowmesh._core.commits import Commit
from flowmesh._core.entry import Entry
from flowmesh._core.ledger import Ledger
from flowmesh._core.router import Router
from flowmesh._runtime.clock import SystemClock
from flowmesh._runtime.observing import Observing
from flowmesh._runtime.parking import Parking
from flowmesh.errors import MeshError, MeshStopped, NotRunning
from flowmesh.message import Durability, Message
from flowmesh.ports import Clock, Tracing

__all__ = ["TURN_MESSAGES", "TURN_SECONDS", "Ground", "Phase"]

TURN_MESSAGES: Final = 64
TURN_SECONDS: Final = 0.002
"""Workers and senders yield to the loop at least this often, whichever comes first (DESIGN 5, Fairness)."""


class Phase(enum.Enum):
    """Where a mesh is in its life; STOPPED leads back to STARTING."""

    NEW = "has not been started"
    STARTING = "is starting"
    RUNNING = "is running"
    DRAINING = "is draining"
    STOPPED = "has stopped"


class Ground:
    """The state shared by the runtime's parts.

    `budget` and `turn_ends`: how many sends, and until when, before a sender yields. `leases`: deliveries that manual
    consumers hold. `wall_offset`: what to add to `now()` for the wall clock. `spare`: deques for mailboxes that fill up.
    `parked_senders`: senders that wait for room. `storing`: what is on its way to the store; `durability`: what that promises,
    "none" without one. `cause`: why the mesh stopped by itself. `has_idlers`: somebody waits for quiescence: call `look_idle`.
    `observing`: who is told what becomes of each copy, or None. `tracing`: None when nobody traces. `sender`: then None too,
    otherwise `tracing.sender`. `defers_plainly`: a message may be deferred by a timer alone: the mesh runs, and nobody
    observes, traces or stores.
    """

    __slots__ = (
        "budget",
        "cause",
        "clock",
        "context",
        "defers_plainly",
        "durability",
        "fail",
        "has_idlers",
        "in_turn",
        "is_part",
        "leases",
        "ledger",
        "log",
        "look_idle",
        "name",
        "now",
        "observing",
        "parked_senders",
        "parking",
        "phase",
        "prefix",
        "router",
        "sender",
        "serials",
        "soon",
        "spare",
        "stopped_at",
        "storing",
        "thread",
        "tracing",
        "turn_ends",
        "wall_offset",
    )

    parking: Parking
    context: contextvars.Context

    def __init__(self, name: str, clock: Clock | None, *, is_part: bool = False) -> None:
        self.name = name
        self.is_part = is_part
        self.router = Router()
        self.ledger = Ledger(self.router)
        self.clock: Clock = SystemClock() if clock is None else clock
        self.now: Callable[[], float] = self.clock.now
        self.log = logging.getLogger(f"flowmesh.{name}")
        self.prefix = f"{secrets.token_hex(6)}-"
        self.serials = self.ledger.timers.numbers
        self.phase = Phase.NEW
        self.thread: int | None = None
        self.stopped_at = (0.0, 0.0)
        self.budget = TURN_MESSAGES
        self.turn_ends = 0.0
        self.wall_offset = 0.0
        self.spare: list[deque[Message | Entry]] = []
        self.soon: deque[Callable[[], object]] = deque()
        self.leases = 0
        self.parked_senders = 0
        self.storing = 0
        self.durability: Durability = "none"
        self.cause: BaseException | None = None
        self.has_idlers = False
        self.defers_plainly = False
        self.observing: Observing | None = None
        self.tracing: Tracing | None = None
        self.sender: Callable[[], object] | None = None
        self.look_idle: Callable[[], None] = _nothing
        self.fail: Callable[[BaseException], None] = _raise
        self.in_turn: Callable[[], bool] = _never

    def moment(self) -> tuple[float, float]:
        """Return the mesh clock's seconds and the wall clock's; of the moment it stopped, when it does not run."""
        return self.stopped_at if self.thread is None else (self.now(), self.clock.wall())

    def do_soon(self, action: Callable[[], object]) -> None:
        """Do this in the mesh's thread, from whatever thread: soon, or when it is started again if it does not run."""
        self.soon.append(action)
        self.parking.call_soon(self.catch_up)

    def catch_up(self) -> None:
        """Do what was to be done soon."""
        while self.soon:
            self.soon.popleft()()

    async def breathe(self) -> None:
        """Let the other tasks run: the sender's turn is over."""
        self.budget = TURN_MESSAGES
        await self.parking.checkpoint()
        self.new_turn()

    def new_turn(self) -> float:
        """Start a turn: the budget is full. Return the moment."""
        now = self.now()
        self.budget = TURN_MESSAGES
        self.turn_ends = now + TURN_SECONDS
        self.wall_offset = self.ledger.wall_offset = self.clock.wall() - now
        return now

    def check_sender(self) -> None:
        """Refuse a send that this mesh cannot take now.

        Raises:
            NotRunning: it has not been started.
            MeshStopped: it drains, and the send does not come from a turn; or it has stopped.
            MeshError: the caller is in a foreign thread.
        """
        if self.phase is Phase.STOPPED or (self.phase is Phase.DRAINING and not self.in_turn()):
            raise MeshStopped(
                f"mesh {self.name!r} {self.phase.value}: it takes no more messages until it is entered again"
            ) from self.cause
        if self.phase in (Phase.NEW, Phase.STARTING):
            raise self.not_running("send inside 'async with mesh' (or from an actor of it)")
        if get_ident() != self.thread:
            raise MeshError(
                f"mesh {self.name!r} runs in another thread: send with anyio.from_thread.run(actor.tell, body) "
                "(from_thread.run_sync for the _nowait forms), or collect with ctx.tell and ctx.publish"
            )

    @property
    def label(self) -> str:
        """What it is and what it is called, for messages to users."""
        return f"{'part' if self.is_part else 'mesh'} {self.name!r}"

    def not_running(self, mend: str) -> NotRunning:
        """Return the error of something that needs a running mesh, with its mend."""
        if self.is_part:
            return NotRunning(f"part {self.name!r} has not been added to a mesh: mesh.add(...) it, then {mend}")
        return NotRunning(f"mesh {self.name!r} {self.phase.value}: {mend}")

    def check_declared(self, thing: object) -> None:
        """Refuse what only makes sense in a mesh.

        Raises:
            NotRunning: the thing belongs to a part that has not been added to one.
        """
        if self.is_part:
            raise NotRunning(f"{thing!r} is of part {self.name!r}, which has not been added to a mesh: mesh.add(...) it first")

    def tell(self, commit: Commit) -> None:
        """Log what a commit has to say."""
        for note in commit.notes:
            message = note.message
            match note.kind:
                case "unroutable":
                    self.note_unroutable(note.place, message.key, message.id)
                case "cut":
                    self.log.warning("dead-letter cycle cut: message %s is not put into %r again", message.id, note.place)
                case "evicted":
                    self.log.warning("mesh.dead_letters is full: dropped the oldest, message %s", message.id)
                case "buried":
                    self.log.debug("message %s of mailbox %r rests in mesh.dead_letters", message.id, note.place)

    def note_unroutable(self, exchange: str, key: str, message_id: str) -> None:
        """Count a message that nothing is bound for, and log the first of each exchange."""
        found = self.router.find_exchange(exchange)
        if found is None:
            self.log.warning("message %s was due for exchange %r, which is gone", message_id, exchange)
            return
        found.unroutable += 1
        if found.unroutable == 1:
            self.log.warning(
                "exchange %r routes key %r nowhere: message %s went to no mailbox (further ones are only counted)",
                exchange,
                key,
                message_id,
            )


def _nothing() -> None:
    return None


def _never() -> bool:
    return False


def _raise(error: BaseException) -> None:
    raise error
