"""A turn with several messages: what its handler sees of them, and how each is settled.

The handler returns: what it marked is settled as marked, everything else is acknowledged.  It raises: all of them failed, and
what it marked is forgotten, as what it collected is.  Either way all are settled in one commit.
"""

from collections.abc import Sequence
from typing import Any, cast

from flowmesh._core.batches import BatchLease, BatchReason
from flowmesh._core.entry import Entry
from flowmesh.checks import require
from flowmesh.errors import AlreadySettled, Reject, RetryAfter
from flowmesh.message import Message

__all__ = ["BatchItem", "BatchTurn", "copies_of", "replies_of"]


class BatchItem:
    """One message of a batch. Without a mark it is done when the handler returns; it can be marked once."""

    __slots__ = ("_index", "_lease")

    def __init__(self, lease: BatchLease, index: int) -> None:
        self._lease = lease
        self._index = index

    def __repr__(self) -> str:
        return f"<BatchItem {self._index} of {len(self._lease.copies)}: {self.message!r}>"

    @property
    def body(self) -> Any:
        """Its body, as it stands in the handler's list."""
        return self._lease.body[self._index]

    @property
    def message(self) -> Message:
        """The message."""
        return self._lease.copies[self._index].message

    @property
    def attempt(self) -> int:
        """1 for its first attempt; one more for each exception, time limit or `fail` before."""
        return self._lease.copies[self._index].failures + 1

    @property
    def redelivered(self) -> bool:
        """This copy was, or may have been, handed out before."""
        return self._lease.copies[self._index].redelivered

    def reject(self, reason: str = "") -> None:
        """Make it a dead letter, `rejected`: as `raise Reject(reason)` for this one alone.

        Raises:
            AlreadySettled: it is marked already, or the turn has ended.
        """
        self.fail(Reject(reason))

    def retry(self, delay: float = 0.0) -> None:
        """Hand it out again after `delay` seconds; counts for no limit: as `raise RetryAfter(delay)` for this one alone.

        Raises:
            AlreadySettled: as `reject`.
            ValueError: a delay that is negative or not finite.
        """
        self.fail(RetryAfter(delay))

    def fail(self, error: Exception | type[Exception]) -> None:
        """Let it fail with this error, as if its handler had raised it for this one alone: `retry=` decides.

        Args:
            error: an exception; of a class one is made, as by `raise`.

        Raises:
            AlreadySettled: as `reject`.
            ValueError: `error` is no exception.
        """
        raised = _instance_of(error)
        lease = self._lease
        if lease.is_over or self._index in lease.marks:
            why = "the turn of its batch has ended" if lease.is_over else "it is marked already"
            raise AlreadySettled(f"message {self.message.id} cannot be marked, {why}: mark each once", message=self.message)
        lease.marks[self._index] = raised


class BatchTurn:
    """The batch that a handler was given: `ctx.batch`."""

    __slots__ = ("_lease", "items")

    items: tuple[BatchItem, ...]
    """Its messages, in the order of the handler's list."""

    def __init__(self, lease: BatchLease) -> None:
        self._lease = lease
        self.items = tuple(BatchItem(lease, index) for index in range(len(lease.copies)))

    @property
    def reason(self) -> BatchReason:
        """Why it was handed out: it had `size` messages, the first had waited `within`, `bytes` were full, or a drain."""
        return self._lease.reason

    @property
    def waited(self) -> float:
        """Seconds since the first of its messages entered the mailbox."""
        return self._lease.waited


def _instance_of(error: object) -> Exception:
    """Return what `raise error` would raise, if that is an Exception."""
    raised = error() if isinstance(error, type) and issubclass(error, Exception) else cast("Any", error)
    written = f"item.fail(ValueError({error!r}))" if isinstance(error, str) else ""
    require(isinstance(raised, Exception), "error", "an exception", raised, written=written, whose=" of item.fail()")
    return raised


def copies_of(entry: Entry) -> Sequence[Entry]:
    """Return the copies that a turn has in hand."""
    return entry.copies if isinstance(entry, BatchLease) else (entry,)


def replies_of(lease: BatchLease, result: object) -> Sequence[Any]:
    """Return what each asker gets: its element, if the handler returned as many as it was given, and None otherwise."""
    if isinstance(result, list | tuple):
        found = cast("Sequence[Any]", result)
        if len(found) == len(lease.copies):
            return found
    return (None,) * len(lease.copies)
