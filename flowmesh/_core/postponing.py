"""Postponed copies: leased, but in nobody's hands, until the state of their machine changes.

    READY -> POSTPONED -> READY       looked at in a state that postpones it; the state has changed
    POSTPONED -> SETTLING             its asker has left

A copy keeps its place, so that it comes back before what entered later, in order with the others.  It counts as leased: it
takes no room, does not expire, and is not purged.  It leaves its lane, so that the message that will change the state is
not held up by it.  Coming back counts neither as an attempt nor as a hand-out.
"""

from collections.abc import Callable
from typing import Any, Final

from flowmesh._core.commits import Release
from flowmesh._core.entry import NO_LANE, Entry, State
from flowmesh._core.ledger import Ledger
from flowmesh._core.mailbox import Mailbox

__all__ = ["Postponed"]

SWEPT: Final = 64
"""Instances of which copies are kept, before those are looked for whose copies have all gone."""


class Postponed:
    """The postponed copies of one actor, apart for each instance: `lane` is its value, NO_LANE for an actor with one.

    `limit`: of each instance; what comes beyond it is not postponed.
    """

    def __init__(self, mailbox: Mailbox, limit: int) -> None:
        self._mailbox = mailbox
        self._limit = limit
        self._copies: dict[Any, dict[Entry, None]] = {}
        self._sweep_at = SWEPT

    def __len__(self) -> int:
        return sum(entry.state is State.POSTPONED for copies in self._copies.values() for entry in copies)

    def add(self, entry: Entry) -> bool:
        """Postpone a copy that was popped, and holds its lane if it has one; False, and nothing done, at the limit."""
        copies = self._copies.get(entry.lane)
        if copies is None:
            copies = self._begin(entry.lane)
        if len(copies) >= self._limit:
            copies = self.forget_gone(entry.lane)
            if len(copies) >= self._limit:
                return False
            self._copies[entry.lane] = copies
        mailbox = self._mailbox
        if entry.gated is not None:
            mailbox.pass_chance(entry)
        entry.move(State.POSTPONED)
        copies[entry] = None
        if entry.lane is not NO_LANE:
            mailbox.leave_lane(entry)
        return True

    def come_back(self, ledger: Ledger, now: float, lane: Any = NO_LANE, *, still: Callable[[Entry], bool]) -> int:
        """Put the copies of one instance back in line, but those that are `still` postponed; return how many came back."""
        copies = self.forget_gone(lane)
        back = [entry for entry in copies if not still(entry)]
        for entry in back:
            del copies[entry]
        if back:
            if not copies:
                del self._copies[lane]
            ledger.commit(*(Release(self._mailbox, entry) for entry in back), now=now)
        return len(back)

    def lanes(self) -> list[Any]:
        """Return the values of the instances that have postponed something."""
        return list(self._copies)

    def forget_gone(self, lane: Any) -> dict[Entry, None]:
        """Forget copies of one instance whose askers have left; return the others."""
        copies = self._copies.get(lane)
        if copies is None:
            return {}
        for entry in [entry for entry in copies if entry.state is not State.POSTPONED]:
            del copies[entry]
        if not copies:
            del self._copies[lane]
        return copies

    def _begin(self, lane: Any) -> dict[Entry, None]:
        """Begin to keep copies of an instance; those of gone askers may be all that is kept of others, but not for long."""
        if len(self._copies) >= self._sweep_at:
            for other in self.lanes():
                self.forget_gone(other)
            self._sweep_at = 2 * len(self._copies) + SWEPT
        copies = self._copies[lane] = {}
        return copies
