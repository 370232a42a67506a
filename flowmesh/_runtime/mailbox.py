"""The public Mailbox: pull from it, look into it, empty it."""

from flowmesh._core.commits import Purge
from flowmesh._core.mailbox import Mailbox as CoreMailbox
from flowmesh._core.numbers import MailboxStatistics
from flowmesh._runtime.consuming import Deliveries
from flowmesh._runtime.delivery import Delivery
from flowmesh._runtime.engine import Engine
from flowmesh._runtime.exchange import Home
from flowmesh.message import Message
from flowmesh.policies import MailboxOptions

__all__ = ["Mailbox"]


class Mailbox:
    """A mailbox of a mesh; declare it with `mesh.mailbox`, or let an actor bring its own."""

    __slots__ = ("_engine", "core", "home")

    def __init__(self, engine: Engine, core: CoreMailbox, home: Home | None = None) -> None:
        self.home = home
        self.attach(engine, core)

    @classmethod
    def of(cls, engine: Engine, core: CoreMailbox) -> "Mailbox":
        """Return the one handle by which an engine's users know this mailbox."""
        face: Mailbox | None = engine.faces.get(core)
        if face is None:
            face = engine.faces[core] = cls(engine, core)
        return face

    def attach(self, engine: Engine, core: CoreMailbox) -> None:
        """Stand for this mailbox from now on: its part has been added to a mesh."""
        self._engine = engine
        self.core = core

    def __repr__(self) -> str:
        return f"<Mailbox {self.name!r}, {self.core.ready} ready>"

    @property
    def name(self) -> str:
        """Its name, and its key on the default exchange."""
        return self.core.name

    @property
    def options(self) -> MailboxOptions:
        """Its limits and rules."""
        return self.core.options

    @property
    def engine(self) -> Engine:
        """The engine that it is in."""
        return self._engine

    @property
    def endpoint(self) -> CoreMailbox:
        """The core's end of a binding to it."""
        return self.core

    def consume(self, prefetch: int = 16, *, priority: int = 0) -> Deliveries:
        """Return an asynchronous context manager that yields deliveries, to be settled by the caller.

            async with mailbox.consume(prefetch=16) as deliveries:
                async for delivery in deliveries:
                    await delivery.ack()

        The iteration ends when the mesh drains or the mailbox is deleted. Leaving hands back what is unsettled. Several tasks
        may iterate over the same deliveries. An actor that is declared on the mailbox meanwhile takes it over: the iteration
        raises PreconditionFailed; what is in hand is still settled.
        Cancellation: no copy is lost.

        Args:
            prefetch: how many deliveries may be unsettled at a time.
            priority: the higher, the sooner it is served: others get copies only while those above them have `prefetch`
                deliveries unsettled, asked for or not. Equal ones take turns. Without a say where the mailbox is
                `single_active`: there the first consumer is served, and the next when that one leaves.

        Raises:
            PreconditionFailed: an actor is fed from it.
            ValueError: prefetch is not a positive whole number, or priority no whole number.
        """
        if type(prefetch) is not int or prefetch < 1:
            raise ValueError(f"prefetch must be a whole number of at least 1, not {prefetch!r}")
        if type(priority) is not int:
            raise ValueError(f"priority must be a whole number, not {priority!r}")
        return Deliveries(self._engine.residents.pulling(self.core), prefetch, priority)

    async def get(self) -> Delivery:
        """Return the next delivery; wait in line for one.

        Suspends only when there is none, or when the caller's turn (64 messages or 2 ms) is over: not always a checkpoint.

        Cancellation: no copy is leased.

        Raises:
            PreconditionFailed: an actor is fed from it, or was declared on it meanwhile; or it is `single_active`.
            NotRunning, MeshStopped: the mesh hands out nothing now.
            MeshError: the caller is in a foreign thread.
            NotFound: it has been deleted.
        """
        return await self._engine.residents.pulling(self.core).get_one()

    def get_nowait(self) -> Delivery:
        """Return the next delivery.

        Raises:
            anyio.WouldBlock: none is ready.
            PreconditionFailed, NotRunning, MeshStopped, MeshError, NotFound: as `get`.
        """
        return self._engine.residents.pulling(self.core).take_now()

    def purge(self) -> int:
        """End every ready copy, and return how many there were; leased and delayed ones stay. Their askers get NoReply.

        Raises:
            NotRunning: it is durable, and the mesh does not run.
            StoreError: it is durable, and its store takes nothing more.
            ForkedProcessError: it is durable, and this is a fork of the mesh's process.
        """
        ground = self._engine.ground
        if self.core.options.durable is not False:
            self._engine.storing.check_open(f"what lies in mailbox {self.name!r}")
        if ground.ledger.journal is not None:
            ground.ledger.journal.check_process()
        ready = self.core.ready - self.core.pinned
        ground.ledger.commit(Purge(self.core), now=ground.moment()[0], strict=True)
        self.core.refresh()
        ground.look_idle()
        return ready

    def peek(self, limit: int = 10) -> list[Message]:
        """Return up to `limit` ready messages in the order of their hand-out; nothing changes.

        Of a durable mailbox those that are in memory: the first 512, once the mesh has been entered.
        """
        return self.core.peek(limit)

    def statistics(self) -> MailboxStatistics:
        """Return its numbers of this moment."""
        return self.core.statistics(*self._engine.ground.moment())

    def delete(self, *, if_unused: bool = False, if_empty: bool = False) -> int:
        """Delete it with the bindings to it, and return how many ready copies were purged; one that is gone gives 0.

        Leased copies are still settled.

        Raises:
            PreconditionFailed: `if_unused` and it has consumers, or `if_empty` and it has ready copies.
        """
        self._engine.ground.check_declared(self)
        return self._engine.residents.delete_mailbox(self.core, if_unused=if_unused, if_empty=if_empty)
