"""One delivery to a manual consumer, and what it needs of where it came from."""

import warnings
from typing import Final, Protocol

from flowmesh._core.commits import Ack, Back, Dead, Verdict
from flowmesh._core.entry import Entry
from flowmesh._core.mailbox import Mailbox
from flowmesh._runtime.handover import Handover
from flowmesh.checks import is_seconds, require
from flowmesh.errors import AlreadySettled
from flowmesh.message import Message

__all__ = ["Delivery", "Origin", "Window"]

_VERBS: Final = {Ack: "acked", Back: "handed back", Dead: "rejected"}


class Window(Protocol):
    """A consumer that lets only so many deliveries be unsettled at a time."""

    is_open: bool
    priority: int

    @property
    def has_place(self) -> bool:
        """It can take one more delivery."""
        ...

    def keep(self, delivery: "Delivery") -> None:
        """Take a delivery for whoever asks next."""
        ...

    def put_back(self) -> None:
        """Hand back what was kept and nobody asked for."""
        ...

    def release(self, entry: Entry) -> None:
        """Count one unsettled delivery less."""
        ...

    def wake_all(self) -> None:
        """Make everybody who waits for a place look again."""
        ...


class Origin(Protocol):
    """Where deliveries come from, and go back to."""

    mailbox: Mailbox

    def settle(self, entry: Entry, verdict: Verdict, window: Window | None) -> Handover | None:
        """Carry out a verdict; if that is stored, return what to wait for."""
        ...

    def check_settle(self, entry: Entry) -> None:
        """Refuse a verdict that cannot be carried out."""
        ...

    def forgotten(self, entry: Entry, window: Window | None) -> None:
        """Hand back the copy of a forgotten delivery, from wherever the collector runs."""
        ...


class Delivery:
    """One handing-out of a message, to be settled exactly once.

    Garbage-collected unsettled, it goes back with a ResourceWarning.
    """

    __slots__ = ("__weakref__", "_origin", "_settled", "entry", "window")

    def __init__(self, origin: Origin, entry: Entry) -> None:
        self._origin = origin
        self.entry = entry
        self.window: Window | None = None
        self._settled: str | None = None

    @property
    def message(self) -> Message:
        """The message."""
        return self.entry.message

    @property
    def attempt(self) -> int:
        """1, and one more for each exception or time limit before."""
        return self.entry.failures + 1

    @property
    def redelivered(self) -> bool:
        """This copy was, or may have been, handed out before."""
        return self.entry.redelivered

    async def ack(self) -> None:
        """End the delivery: done. Takes effect at once, without a checkpoint; in a durable mailbox, when it is stored.

        Cancellation: none; once it is called, it is settled.

        Raises:
            AlreadySettled: it was settled before; or, from a durable mailbox, an earlier run of the mesh has handed it out.
            MeshStopped: it is from a durable mailbox, and the mesh has stopped; it will be handed out again.
            StoreError: it could not be stored; the copy has gone back, to be handed out again.
        """
        await self._settled_with(Ack())

    async def nack(self, *, delay: float = 0.0) -> None:
        """Hand the copy back, to be handed out again at its place, now or after `delay` seconds.

        Counts towards `max_deliveries`; past that it is a dead letter.

        Raises:
            AlreadySettled, MeshStopped: as `ack`.
            ValueError: a delay that is negative or not finite.
            StoreError: as `ack`.
        """
        require(is_seconds(delay), "delay", "zero or more seconds", delay)
        await self._settled_with(Back(delay, "handout"))

    async def reject(self, reason: str = "") -> None:
        """Make the copy a dead letter.

        Raises:
            AlreadySettled, MeshStopped, StoreError: as `ack`.
        """
        await self._settled_with(Dead("rejected", reason))

    async def _settled_with(self, verdict: Ack | Back | Dead) -> None:
        if self._settled is None:
            try:
                self._origin.check_settle(self.entry)
            except AlreadySettled:
                self._settled = "handed back"
                raise
        handover = self._settle(verdict)
        if handover is not None:
            await handover.wait()

    @property
    def is_settled(self) -> bool:
        """It has been settled."""
        return self._settled is not None

    def hand_back(self) -> None:
        """Hand it back uncounted, if it is not settled: its consumer has left."""
        if self._settled is None:
            self._settle(Back())

    def _settle(self, verdict: Ack | Back | Dead) -> Handover | None:
        if self._settled is not None:
            raise AlreadySettled(
                f"the delivery of message {self.message.id} has already been {self._settled}: settle each delivery once",
                message=self.message,
            )
        self._settled = _VERBS[type(verdict)]
        return self._origin.settle(self.entry, verdict, self.window)

    def __del__(self) -> None:
        # Also runs for a half-made object, and in any thread.
        if getattr(self, "_settled", "") is None:
            self._origin.forgotten(self.entry, self.window)
            warnings.warn(
                f"a delivery of message {self.entry.message.id} from mailbox {self._origin.mailbox.name!r} was forgotten: "
                "it goes back; settle it with ack(), nack() or reject()",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )
