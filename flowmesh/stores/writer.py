"""The one thread that does everything to a store's file, and its one connection.

It sleeps until something is given, then takes all that waits and writes it in one transaction (group commit); what comes
meanwhile is the next group. Giving costs one put into a queue: nobody waits for the thread, and the thread is woken once per
group.

One connection writes, reads and makes the checkpoints, with the file locked for itself. So nobody can be in the way of a
checkpoint, there is no shared memory, and what SQLite before 3.51.3 does wrong when two connections restart the log at the
same time cannot happen.

After an error that leaves open what is on the disk, nothing more is written, not even on the way out: what the kernel holds
of the file may not be what the disk has.
"""

import logging
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, Final, Literal, cast

from flowmesh._core.records import Batch, Contents, Row
from flowmesh.errors import StoreError
from flowmesh.stores.connecting import abandon, connect
from flowmesh.stores.failures import Harm, harm_of, translate
from flowmesh.stores.loading import Quarantine, load, read_copies
from flowmesh.stores.room import Room
from flowmesh.stores.tables import Tables

__all__ = ["Reading", "Writer"]

_GROUP_BATCHES: Final = 1024
_GROUP_COPIES: Final = 4096
_GROUP_BYTES: Final = 4 << 20
"""A group is no larger, so that those who came first do not wait long for those who came last."""

_log = logging.getLogger("flowmesh.store")


class Reading:
    """Copies that somebody wants to have, in their turn among the batches."""

    __slots__ = ("first", "last", "limit", "refused", "rows", "tell")

    grows: Final = False
    """It brings nothing new."""
    puts: Final = ()
    after: Final = None

    def __init__(self, first: int, last: int, limit: int, tell: Callable[[list[Row] | StoreError], None]) -> None:
        self.first = first
        self.last = last
        self.limit = limit
        self.tell = tell
        self.rows: list[Row] = []
        self.refused: Exception | None = None

    def done(self, error: StoreError | None) -> None:
        """Tell what has been read, or why it could not be."""
        self.tell(self.rows if error is None else error)


class _WriterThread(Thread):
    """The thread, which says when it is at work: virtual time stands still for it (see flowmesh.testing.threads)."""

    def __init__(self, writer: "Writer", **options: Any) -> None:
        super().__init__(**options)
        self._writer = writer

    @property
    def is_at_work(self) -> bool:
        """Something was given that has not been answered."""
        return self._writer.given != self._writer.answered


class Writer:
    """The thread of an open store.

    Args:
        path: of the file, which is there and owned.
        durability: what a confirmed batch survives.
        reserve: bytes kept back on the disk.
    """

    def __init__(self, path: Path, *, durability: Literal["process", "power"], reserve: int) -> None:
        self._path = path
        self._durability: Literal["process", "power"] = durability
        self._reserve = reserve
        self._given: SimpleQueue[Batch | Reading | None] = SimpleQueue()  # None: that was all.
        self.given = self.answered = 0  # each counted by one thread only: their difference is what is in hand
        self._failure: Exception | None = None
        self._opened: Future[Contents] = Future()
        self._thread = _WriterThread(self, target=self._run, name=f"flowmesh store {path.name}", daemon=True)
        self.connection: sqlite3.Connection | None = None
        """For a fork of this process, which has to keep it from being closed there."""

    def give(self, item: Batch | Reading) -> None:
        """Put a batch or a reading into its turn; costs nothing that a caller would notice."""
        self.given += 1
        self._given.put(item)

    def start(self) -> Contents:
        """Open the file and say what is in it; blocks.

        Raises:
            StoreError: it cannot be opened.
        """
        self._thread.start()
        return self._opened.result()

    def stop(self) -> None:
        """Carry out all that was given, and close the file; blocks."""
        self._given.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            self._open()
        except Exception as error:  # noqa: BLE001 - whatever it is, `start` raises it
            if self.connection is not None:
                abandon(self.connection)
            self._opened.set_exception(translate(self._path, error))
            return
        while self._carry_out(self._take()):
            pass
        self._close()

    def _open(self) -> None:
        self.connection = connection = connect(self._path, durability=self._durability)
        self._room = Room(connection, self._path, reserve=self._reserve)
        self._room.begin()
        self._quarantine = Quarantine(connection, self._notice)
        connection.execute("BEGIN IMMEDIATE")
        contents = load(connection, self._quarantine)
        connection.execute("COMMIT")
        self._tables = Tables(connection, lines=contents.lines, last_timer=contents.last_timer)
        if self._room.is_tight:
            _log.warning("store %s: its disk is full; what is new is refused until there is room", self._path)
        self._opened.set_result(contents)

    def _take(self) -> list[Batch | Reading | None]:
        """Wait for something to do, and take what else there is."""
        take = self._given.get
        group = [take()]
        # Nobody else takes, so there are at least as many.
        group += [take() for _ in range(min(self._given.qsize(), _GROUP_BATCHES))]
        return group

    def _carry_out(self, group: list[Batch | Reading | None]) -> bool:
        """Carry out a group; false: it was the last one."""
        goes_on = None not in group
        work = [item for item in group if item is not None]
        while work:
            together = self._as_many_as_fit(work)
            self._write(work[:together])
            self.answered += together
            work = work[together:]
        return goes_on

    def _as_many_as_fit(self, work: Sequence[Batch | Reading]) -> int:
        """Return how many of the next go into one transaction: one at least, however large it is."""
        sizes = [len(record) for item in work for _, record in item.puts]
        if sum(sizes) <= _GROUP_BYTES and len(sizes) <= _GROUP_COPIES:
            return len(work)
        left = _GROUP_BYTES
        for place, item in enumerate(work):
            left -= sum([len(record) + _GROUP_BYTES // _GROUP_COPIES for _, record in item.puts])
            if left < 0:
                return max(place, 1)
        return len(work)

    def _write(self, work: Sequence[Batch | Reading]) -> None:
        if self._failure is None and self._room.is_tight and any(item.grows for item in work):
            self._guard(self._room.relax)
        if self._failure is None and not any(item.after is not None and item.after.refused for item in work):
            error = self._try(work)
            if error is None:
                self._answer(work, None)
                self._tidy()
                return
        if self._failure is None:  # There was no room, or one of them cannot be written: find out which.
            for item in work:
                self._write_alone(item)
            self._tidy()
            return
        self._answer(work, self._failure)

    def _write_alone(self, item: Batch | Reading) -> None:
        if item.after is not None and item.after.refused is not None and self._failure is None:
            self._answer([item], item.after.refused)
        elif self._failure is None:
            error = self._try([item], grows=item.grows)
            if error is not None and self._failure is None and harm_of(error) is Harm.FULL:
                if not self._room.is_tight:
                    _log.error("store %s: its disk is full; what ends is still written, what is new is refused", self._path)
                self._guard(self._room.tighten)
                error = self._failure or self._try([item], grows=item.grows)
            self._answer([item], error)
        else:
            self._answer([item], self._failure)

    def _try(self, work: Sequence[Batch | Reading], *, grows: bool = True) -> Exception | None:
        """Write it in one transaction; return why it was not."""
        assert self.connection is not None
        execute = self.connection.execute
        is_held = self._room.is_tight
        try:
            if is_held and not grows:
                self._room.free_pages()
            execute("BEGIN IMMEDIATE")
            start = 0
            for place, item in enumerate(work):
                if type(item) is Reading:
                    self._tables.write(cast(Sequence[Batch], work[start:place]))
                    item.rows = read_copies(
                        self.connection, self._tables, self._quarantine, first=item.first, last=item.last, limit=item.limit
                    )
                    start = place + 1
            self._tables.write(cast(Sequence[Batch], work[start:]))
            self._tables.finish()
            self._room.check_in_place()
            execute("COMMIT")
            self._tables.committed()
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait are told
            if harm_of(error) is Harm.BROKEN:
                self._break(error)
            else:
                self._guard(self._roll_back)
            return error
        finally:
            if is_held and not grows:
                self._guard(self._room.hold_pages)
        return None

    def _roll_back(self) -> None:
        assert self.connection is not None
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")
        self._tables.rolled_back()

    def _tidy(self) -> None:
        if self._failure is None:
            self._guard(self._room.bound_log)

    def _guard(self, call: Callable[[], object]) -> None:
        """Do what is no part of a batch; an error in it breaks the store."""
        if self._failure is None:
            try:
                call()
            except (sqlite3.Error, OSError) as error:
                self._break(error)

    def _break(self, error: Exception) -> None:
        assert self.connection is not None
        self._failure = error
        _log.critical("store %s: nothing more is confirmed until it is opened anew: %s", self._path, error)
        abandon(self.connection)

    def _answer(self, work: Iterable[Batch | Reading], error: Exception | None) -> None:
        left = iter(work)
        while True:
            try:
                if error is None:
                    for item in left:
                        item.done(None)
                else:
                    for item in left:
                        item.refused = error
                        item.done(translate(self._path, error))
            except Exception:  # noqa: BLE001 - it is logged, and the others are told all the same
                _log.exception("store %s: what was to be told of a batch has failed", self._path)
            else:
                return

    def _close(self) -> None:
        assert self.connection is not None
        if self._failure is None:
            self._guard(self._room.carry_over)
        if self._failure is None:
            self.connection.close()
            self._room.keep_what_fits()

    def _notice(self, text: str) -> None:
        _log.error("store %s: %s", self._path, text)
