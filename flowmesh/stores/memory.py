"""A store that survives nothing: everything a store does, for tests, and for those who try what a store would say.

It works in the event loop of the mesh: what is given is carried out in the loop's next turn, all of it at once, as a group
commit does. There is no thread, so a test in virtual time sees the same every time.
"""

import asyncio
import logging
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TypeVar, cast

import trio

from flowmesh._core.records import LAST_PLACE, PLACE_BITS, Batch, Contents, Line, Row, Trial, lines_of, number_of, place_of
from flowmesh.errors import StoreError, StoreLocked
from flowmesh.message import Durability

__all__ = ["MemoryStore"]

_log = logging.getLogger("flowmesh.store")

_Key = TypeVar("_Key")
_Step = Callable[[], Callable[[], None]]


class MemoryStore:
    """Keeps what a mesh stores as long as this object lives: another mesh may open it after the first has closed it.

    Args:
        durability: what it says of itself. "none" is true; tests of what depends on the level may have it say more.
    """

    def __init__(self, *, durability: Durability = "none") -> None:
        self._durability: Durability = durability
        self._rows = _Rows()
        self._waiting: list[_Step] = []
        self._is_open = False

    @property
    def durability(self) -> Durability:
        """What it says that a confirmed batch survives."""
        return self._durability

    def open(self) -> Contents:
        """Say what is there, as `Store.open`."""
        if self._is_open:
            raise StoreLocked("this MemoryStore is in use by another mesh: close that one first, or give this one its own")
        self._is_open = True
        return self._rows.contents()

    def append(self, batch: Batch, /) -> None:
        """Write a batch in the loop's next turn, as `Store.append`."""

        def step() -> Callable[[], None]:
            error = batch.after.refused if batch.after is not None else None
            error = batch.refused = self._rows.write(batch) if error is None else error
            return lambda: batch.done(cast("StoreError | None", error))

        self._give(step)

    def read(self, first: int, last: int, /, *, limit: int, done: Callable[[list[Row] | StoreError], None]) -> None:
        """Read copies in the loop's next turn, as `Store.read`."""

        def step() -> Callable[[], None]:
            rows = self._rows.read(first, last, limit)
            return lambda: done(rows)

        self._give(step)

    def close(self) -> None:
        """Carry out what waits and let go, as `Store.close`."""
        while self._waiting:  # What is told may give more.
            self._carry_out()
        self._is_open = False

    def crash(self) -> None:
        """Do what the end of a process does: what has not been carried out is lost, and nobody is told.

        It may be opened again.
        """
        self._waiting = []
        self._is_open = False

    def _give(self, step: _Step) -> None:
        if not self._is_open:
            raise StoreError("this MemoryStore is not open: open it first")
        if not self._waiting:
            _call_soon(self._carry_out)
        self._waiting.append(step)

    def _carry_out(self) -> None:
        group, self._waiting = self._waiting, []
        for tell in [step() for step in group]:
            try:
                tell()
            except Exception:  # noqa: BLE001 - it is logged, and the others are told all the same
                _log.exception("MemoryStore: what was to be told of a batch has failed")


class _Rows:
    """The tables, as dicts. Places of a line stand in order; those of ended copies are taken out when they are many."""

    def __init__(self) -> None:
        self._mailboxes: dict[int, str] = {}
        self._lines: dict[int, Line] = {}
        self._places: dict[int, list[int]] = {}
        self._copies: dict[int, bytes] = {}
        self._trials: dict[int, Trial] = {}
        self._timers: dict[int, bytes] = {}
        self._last_timer = 0
        self._kept: dict[tuple[str, str], bytes] = {}

    def contents(self) -> Contents:
        return Contents(
            {name: number for number, name in self._mailboxes.items()},
            dict(self._lines),
            dict(self._timers),
            self._last_timer,
            dict(self._kept),
        )

    def write(self, batch: Batch) -> StoreError | None:
        """Write all of it, or say why nothing of it was written."""
        numbers = [number for number, _ in batch.puts]
        if len(set(numbers)) < len(numbers) or not self._copies.keys().isdisjoint(numbers):
            return StoreError("this MemoryStore has a copy of that number already: nothing of this was written")
        for number, name in batch.mailboxes:
            if name is None:
                self._forget_mailbox(number)
        for first, last in batch.sweeps:
            for number in list(self._between(first, last)):
                self._drop(number)
        for number, record in batch.puts:
            self._put(number, record)
        self._trials.update(batch.trials)
        for number in batch.drops:
            self._drop(number)
        for line, place in batch.marks.items():
            known = self._lines.get(line, Line())
            self._lines[line] = Line(known.placed, place, known.copies)
        self._mailboxes.update((number, name) for number, name in batch.mailboxes if name is not None)
        for id, record in batch.timers:
            self._last_timer = max(self._last_timer, id)
            _set(self._timers, id, record)
        for kind, key, value in batch.kept:
            _set(self._kept, (kind, key), value)
        return None

    def read(self, first: int, last: int, limit: int) -> list[Row]:
        numbers = islice(self._between(first, last), limit)
        rows = [Row(number, self._copies[number], self._trials.get(number)) for number in numbers]
        for line, number in {row.number >> PLACE_BITS: row.number for row in rows}.items():
            known = self._lines[line]
            self._lines[line] = Line(known.placed, max(known.marked, place_of(number)), known.copies)
        return rows

    def _put(self, number: int, record: bytes) -> None:
        line, place = number >> PLACE_BITS, place_of(number)
        known = self._lines.get(line, Line())
        self._lines[line] = Line(max(known.placed, place), known.marked, known.copies + 1)
        insort(self._places.setdefault(line, []), place)
        self._copies[number] = record

    def _drop(self, number: int) -> None:
        self._trials.pop(number, None)
        if self._copies.pop(number, None) is not None:
            line = number >> PLACE_BITS
            known = self._lines[line]
            self._lines[line] = Line(known.placed, known.marked, known.copies - 1)
            places = self._places[line]
            if len(places) > 2 * known.copies + 64:
                self._places[line] = [place for place in places if number_of(line, place) in self._copies]

    def _forget_mailbox(self, number: int) -> None:
        for line in lines_of(number):
            for copy in list(self._between(number_of(line, 0), number_of(line, LAST_PLACE))):
                self._drop(copy)
            self._lines.pop(line, None)
            self._places.pop(line, None)
        self._mailboxes.pop(number, None)

    def _between(self, first: int, last: int) -> Iterator[int]:
        for line in sorted(line for line in self._places if first >> PLACE_BITS <= line <= last >> PLACE_BITS):
            places = self._places[line]
            for index in range(bisect_left(places, first - number_of(line, 0)), len(places)):
                number = number_of(line, places[index])
                if number > last:
                    return
                if number in self._copies:
                    yield number


def _set(table: dict[_Key, bytes], key: _Key, value: bytes | None) -> None:
    if value is None:
        table.pop(key, None)
    else:
        table[key] = value


def _call_soon(call: Callable[[], None]) -> None:
    """Have the running event loop call this in its next turn."""
    if trio.lowlevel.in_trio_run():
        trio.lowlevel.current_trio_token().run_sync_soon(call)
    else:
        asyncio.get_running_loop().call_soon(call)
