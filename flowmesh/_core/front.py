"""What a message touches of a mailbox."""

from collections import deque
from collections.abc import Callable

from flowmesh._core.entry import Entry
from flowmesh.message import Message

__all__ = ["Front"]


class Front:
    """What a message touches on its way, side by side in memory: slots lie in alphabetical order, a base class's first.

    With ten thousand mailboxes the rest would be fetched with it from memory, line by line: a third of S10's time.
    """

    __slots__ = ("acked", "armed", "careful", "entered", "fresh", "heap", "limit", "name", "on_ready", "popped")

    acked: int
    armed: bool
    careful: bool
    entered: int
    fresh: deque[Message | Entry]
    heap: list[tuple[int, int, Entry]]
    limit: int
    name: str
    on_ready: Callable[[], None]
    popped: int
