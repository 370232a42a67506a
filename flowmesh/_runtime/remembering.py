"""What a schedule keeps in the store of its mesh: written with its fires, or by itself when it has changed without one.

Nothing is kept without a store.  What is written is always all that there is to know (see standing.py), so whichever was
written last is right, and one that could not be written is made up for by the next.
"""

from collections.abc import Callable

from flowmesh._core.commits import Keep
from flowmesh._core.standing import BACKLOG, SCHEDULE, Backlog, Standing, read_standing
from flowmesh._runtime.ground import Ground
from flowmesh.errors import StoreError

__all__ = ["Remembering"]


class Remembering:
    """What one schedule remembers. `stand` returns where it stands, told how many of its backlog are done with."""

    def __init__(self, name: str, backlog: Backlog, stand: Callable[[int], Standing]) -> None:
        self._name = name
        self._backlog = backlog
        self._stand = stand
        self.is_on = False  # its mesh has a store
        self._has_changed = False  # there is something to write

    def recall(self, ground: Ground) -> Standing | None:
        """Return where it stood when it was last written, its backlog being as it was then; None if nothing is known."""
        self._has_changed = False
        self.is_on = ground.ledger.journal is not None
        if not self.is_on:
            return None
        kept = ground.ledger.kept
        standing = read_standing(kept.pop((SCHEDULE, self._name), None))
        backlog = kept.pop((BACKLOG, self._name), None)
        if standing is not None:
            self._backlog.take(backlog, done=standing.done, waiting=standing.waiting)
        return standing

    def change(self) -> bool:
        """Take the news that there is something to write; False if nothing is written."""
        self._has_changed = self.is_on
        return self.is_on

    def keeps(self, ground: Ground) -> tuple[Keep, ...]:
        """Return what is to be written with the next commit, which the caller makes now."""
        if not self._has_changed:
            return ()
        self._has_changed = False
        backlog, done = self._backlog.to_write()
        standing = Keep(SCHEDULE, self._name, self._stand(done).encode())
        return (standing,) if backlog is None else (standing, Keep(BACKLOG, self._name, backlog))

    def write(self, ground: Ground) -> None:
        """Write what has changed, if anything has."""
        keeps = self.keeps(ground)
        if keeps:
            ground.ledger.commit(*keeps, now=ground.now(), then=self.note)

    def note(self, error: StoreError | None) -> None:
        """Take the news of what became of a commit that something was written with."""
        if error is not None:
            self._has_changed = self.is_on
            self._backlog.must_be_written()

    def forget(self, ground: Ground) -> None:
        """Keep nothing any more: the schedule has ended for good."""
        self._has_changed = False
        if self.is_on:
            kept = (Keep(SCHEDULE, self._name, None), Keep(BACKLOG, self._name, None))
            ground.ledger.commit(*kept, now=ground.now())
