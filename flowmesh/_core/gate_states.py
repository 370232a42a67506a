"""What a gate is to the mechanism: five questions, asked of each kind in the same way.

    look     may this copy's handler start now? GO, HOLD it, or DROP it. Changes nothing.
    when     at what time a copy of this value that is held may go: now or earlier, later, or NEVER: not by time alone
    start    its handler starts;  end: that has ended. Every start has exactly one end.
    fade     forget the values that are indistinguishable from new ones

State is kept for active values only.  Values are kept in the order in which they will fade, so forgetting costs no search.

What a LastingState knows of a value is a moment until which it matters; that is what a store keeps.  The others know only of
handlers that run, or have failed, in this process: what they hold back lies in the mailbox, which is kept.
"""

import enum
import math
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol, TypeVar

from msgspec import Struct

from flowmesh._core.entry import Entry
from flowmesh.policies import Gate

__all__ = ["NEVER", "ROUNDING", "GateState", "LastingState", "TurnEnd", "Verdict", "forget_while"]

Known = TypeVar("Known")
NEVER: Final = math.inf
ROUNDING: Final = 1e-6
"""What adding and subtracting seconds may lose: a moment this close has come."""


class Verdict(enum.Enum):
    """What a gate says of a copy."""

    GO = enum.auto()
    HOLD = enum.auto()
    DROP = enum.auto()


class TurnEnd(Struct, frozen=True):
    """How a handler's turn ended: it returned (`is_done`), raised `error`, or neither: it was handed back or withdrawn.

    `is_repeated`: another copy of the same value has ended by the same call, and has told of its failure.
    """

    is_done: bool = False
    error: BaseException | None = None
    is_repeated: bool = False


class GateState(Protocol):
    """One gate of one actor, with what it knows of its values. `dropped`: copies that it dropped."""

    dropped: int

    @property
    def policy(self) -> Gate:
        """Return what it was declared with."""
        ...

    def look(self, value: Any, entry: Entry, now: float, *, is_behind: bool) -> Verdict:
        """Say what becomes of a copy; `is_behind`: earlier ones of its value are held here."""
        ...

    def when(self, value: Any, now: float) -> float:
        """Return when the first that is held may go; NEVER if an end has to come first."""
        ...

    def start(self, value: Any, entry: Entry, now: float) -> None:
        """Note that its handler starts."""
        ...

    def end(self, value: Any, entry: Entry, now: float, ending: TurnEnd) -> None:
        """Note that it has ended."""
        ...

    def fade(self, now: float) -> float | None:
        """Forget what does not matter any more; return when to look again, None if there is nothing."""
        ...

    def values(self) -> int:
        """Return of how many values it knows something."""
        ...

    def condition(self) -> str | None:
        """Return in which condition it is, if it has conditions."""
        ...


class LastingState(GateState, Protocol):
    """One that a store can keep. `forgotten`: values that it has forgotten, for the caller to take; None: nobody wants them."""

    forgotten: list[Any] | None

    def lasting(self, value: Any, entry: Entry, *, is_done: bool) -> float | None:
        """Return until when it matters what it knows of a value once the turn of this copy has ended; None: it does not.

        Args:
            value: the copy's.
            entry: the copy, whose `end` is still to come.
            is_done: its handler has returned.
        """
        ...

    def known(self) -> Iterable[tuple[Any, float]]:
        """Return its values, and until when each matters; not of turns that have not ended."""
        ...

    def recall(self, value: Any, until: float, now: float) -> float:
        """Know a value that was kept, and return until when: no longer than a new one, since a clock may have been set."""
        ...


def forget_while(
    values: dict[Any, Known], is_over: Callable[[Known], bool], forgotten: list[Any] | None = None
) -> Known | None:
    """Forget values from the first on while what is known of them is over; return what is known of the first that is left.

    Those that are forgotten are added to `forgotten`.

    One pass: a dict whose front is deleted again and again is searched anew each time.
    """
    over: list[Any] = []
    first = None
    for value, known in values.items():
        if not is_over(known):
            first = known
            break
        over.append(value)
    if forgotten is not None:
        forgotten += over
    if len(over) == len(values):
        values.clear()
    else:
        for value in over:
            del values[value]
    return first
