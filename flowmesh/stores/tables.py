"""Write batches into the tables of a store's file, within a transaction that somebody else begins and ends.

Many batches become few statements, each of which writes many rows: a statement is a chance for another thread to take the
interpreter away for milliseconds, and costs more than the row that it writes. What is known of each line is kept here and
written once per transaction, so a copy costs its own row and nothing else.

The order within a batch: mailboxes that go, sweeps, trials, drops of what was there before, puts, drops of what was put just
now, and then what has nothing to do with copies.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Final

import msgspec

from flowmesh._core.records import LAST_PLACE, PLACE_BITS, Batch, Line, Trial, lines_of, number_of
from flowmesh.stores import checksums

__all__ = ["Tables"]

_MANY: Final = (100, 10, 1)
"""So many copies per statement: few enough for the limit on parameters of any SQLite."""
_INSERTS: Final = {many: "INSERT INTO copies VALUES " + ",".join(["(?,?,?)"] * many) for many in _MANY}  # noqa: S608 - no input
_DROP_RANGE: Final = "DELETE FROM copies WHERE number BETWEEN ? AND ?"
_DROP_LISTED: Final = "DELETE FROM copies WHERE number IN (SELECT value FROM json_each(?))"
_DROP_TRIAL: Final = {
    _DROP_RANGE: "DELETE FROM trials WHERE number BETWEEN ? AND ?",
    _DROP_LISTED: "DELETE FROM trials WHERE number IN (SELECT value FROM json_each(?))",
}
_LINE: Final = (
    "INSERT INTO lines VALUES (?,?,?,?,?) ON CONFLICT (line) DO UPDATE SET"
    " placed = excluded.placed, marked = excluded.marked, copies = excluded.copies, checksum = excluded.checksum"
)
_MAILBOX: Final = (
    "INSERT INTO mailboxes VALUES (?,?,?) ON CONFLICT (number) DO UPDATE SET name = excluded.name, checksum = excluded.checksum"
)

_FRESH: Final = (0, 0, 0)

_first = itemgetter(0)


class Tables:
    """The tables of an open file, as they are written.

    Args:
        connection: to the file.
        lines: what is in it.
        last_timer: the same.
    """

    def __init__(self, connection: sqlite3.Connection, *, lines: dict[int, Line], last_timer: int) -> None:
        self._connection = connection
        self._encode = msgspec.msgpack.Encoder().encode
        self._lines = {line: (known.placed, known.marked, known.copies) for line, known in lines.items()}
        self._touched: dict[int, list[int]] = {}
        self._forgotten: set[int] = set()
        self._last_timer = last_timer
        self._next_last_timer = last_timer
        self.has_trials = self._find_trials()

    def write(self, batches: Sequence[Batch]) -> None:
        """Carry out batches, one after another."""
        start = 0
        for place in [place for place, batch in enumerate(batches) if batch.sweeps or batch.mailboxes]:
            # What came before must be there when a range ends, and what comes after must not.
            self._write_together(batches[start:place])
            for number, name in batches[place].mailboxes:
                if name is None:
                    self._forget_mailbox(number)
            for first, last in batches[place].sweeps:
                self._sweep(first, last)
            start = place
        self._write_together(batches[start:])

    def mark(self, line: int, place: int) -> None:
        """Note that copies of the line up to this place may be handed out."""
        if place > self._line(line)[1]:
            self._touch(line)[1] = place

    def take_away(self, number: int) -> None:
        """Note that a copy's row has been deleted by somebody else."""
        self._touch(number >> PLACE_BITS)[2] -= 1

    def finish(self) -> None:
        """Write what is known of the lines; the last thing before the transaction is committed."""
        of_line = checksums.of_line
        if self._touched:
            rows = [(line, *known, of_line(line, *known)) for line, known in self._touched.items()]
            self._connection.executemany(_LINE, rows)
        if self._next_last_timer != self._last_timer:
            last = self._next_last_timer
            checksum = checksums.of_record(checksums.META, last, checksums.LAST_TIMER.encode())
            self._connection.execute("REPLACE INTO meta VALUES (?,?,?)", (checksums.LAST_TIMER, last, checksum))

    def committed(self) -> None:
        """Remember what has been written."""
        for line in self._forgotten:
            self._lines.pop(line, None)
        self._forgotten.clear()
        for line, known in self._touched.items():
            self._lines[line] = (known[0], known[1], known[2])
        self._touched.clear()
        self._last_timer = self._next_last_timer

    def rolled_back(self) -> None:
        """Forget what has been tried."""
        self._touched.clear()
        self._forgotten.clear()
        self._next_last_timer = self._last_timer
        self.has_trials = self._find_trials()

    def _write_together(self, batches: Sequence[Batch]) -> None:
        puts: list[tuple[int, bytes]] = []
        drops: list[int] = []
        for batch in batches:
            puts += batch.puts
            drops += batch.drops
        puts.sort(key=_first)  # By the record as well would be a comparison of tuples each.
        drops.sort()
        # Most batches have nothing but puts and drops.
        others = [batch for batch in batches if batch.trials or batch.marks or batch.timers or batch.kept or batch.mailboxes]
        if others:
            self._write_trials(others)
        # What ends makes room for what is new: a page that is emptied and filled again in one transaction is written once.
        is_early = not puts or not drops or drops[-1] < puts[0][0] or {*drops}.isdisjoint([number for number, _ in puts])
        if drops and is_early:
            self._drop(drops)
        if puts:
            self._put(puts)
        if drops and not is_early:
            self._drop(drops)
        if others:
            self._write_others(others)

    def _put(self, puts: list[tuple[int, bytes]]) -> None:
        start = 0
        for line, copies in _copies_by_line([number for number, _ in puts]).items():
            start += copies
            known = self._touch(line)
            known[0] = max(known[0], puts[start - 1][0] & LAST_PLACE)
            known[2] += copies
        start = 0
        for many in _MANY:
            while len(puts) - start >= many:
                rows = puts[start : start + many] if many < len(puts) else puts
                self._connection.execute(_INSERTS[many], checksums.with_checksums(rows))
                start += many

    def _drop(self, drops: list[int]) -> None:
        lines = _copies_by_line(drops)
        for line, copies in lines.items():
            self._touch(line)[2] -= copies
        first, last = drops[0], drops[-1]
        # Mostly those of a range end together: that is found faster.
        if last - first == len(drops) - 1 and drops == list(range(first, last + 1)):
            drop, given = _DROP_RANGE, (first, last)
        else:
            drop, given = _DROP_LISTED, (str(drops),)
        gone = self._connection.execute(drop, given).rowcount
        if gone != len(drops):  # One that had been quarantined, say: count what is there.
            for line in lines:
                self._touch(line)[2] = self._count(line)
        if self.has_trials and self._connection.execute(_DROP_TRIAL[drop], given).rowcount:
            self.has_trials = self._find_trials()

    def _write_trials(self, batches: Iterable[Batch]) -> None:
        trials: dict[int, Trial] = {}
        for batch in batches:
            trials.update(batch.trials)
        if trials:
            self.has_trials = True
            rows = [(number, self._encode(trial)) for number, trial in trials.items()]
            self._connection.executemany(
                "REPLACE INTO trials VALUES (?,?,?)",
                [(number, record, checksums.of_record(checksums.TRIALS, number, record)) for number, record in rows],
            )

    def _write_others(self, batches: Iterable[Batch]) -> None:
        mailboxes: dict[int, str] = {}
        marks: dict[int, int] = {}
        timers: dict[int, bytes | None] = {}
        kept: dict[tuple[str, str], bytes | None] = {}
        for batch in batches:
            mailboxes.update((number, name) for number, name in batch.mailboxes if name is not None)
            marks.update(batch.marks)
            timers.update(batch.timers)
            kept.update(((kind, key), value) for kind, key, value in batch.kept)
        for line, place in marks.items():
            if self._line(line)[1] != place:
                self._touch(line)[1] = place
        execute, of_record = self._connection.executemany, checksums.of_record
        if mailboxes:
            table = checksums.MAILBOXES
            execute(_MAILBOX, [(number, name, of_record(table, number, name.encode())) for number, name in mailboxes.items()])
        if timers:
            self._next_last_timer = max(self._next_last_timer, *timers)
            table = checksums.TIMERS
            there = [(id, record, of_record(table, id, record)) for id, record in timers.items() if record is not None]
            execute("REPLACE INTO timers VALUES (?,?,?)", there)
            execute("DELETE FROM timers WHERE id = ?", [(id,) for id, record in timers.items() if record is None])
        if kept:
            there = [(*which, value, checksums.of_value(*which, value)) for which, value in kept.items() if value is not None]
            execute("REPLACE INTO kept VALUES (?,?,?,?)", there)
            execute("DELETE FROM kept WHERE kind = ? AND key = ?", [which for which, value in kept.items() if value is None])

    def _sweep(self, first: int, last: int) -> None:
        for line in [line for line in {*self._lines, *self._touched} if first >> PLACE_BITS <= line <= last >> PLACE_BITS]:
            ends = (max(first, number_of(line, 0)), min(last, number_of(line, LAST_PLACE)))
            gone = self._connection.execute(_DROP_RANGE, ends).rowcount
            self._connection.execute(_DROP_TRIAL[_DROP_RANGE], ends)
            if gone:
                self._touch(line)[2] -= gone

    def _forget_mailbox(self, number: int) -> None:
        lines = lines_of(number)
        ends = (number_of(lines[0], 0), number_of(lines[-1], LAST_PLACE))
        execute = self._connection.execute
        execute(_DROP_RANGE, ends)
        execute(_DROP_TRIAL[_DROP_RANGE], ends)
        for line in lines:
            self._touched.pop(line, None)
        self._forgotten.update(line for line in lines if line in self._lines)
        execute("DELETE FROM lines WHERE line BETWEEN ? AND ?", (lines[0], lines[-1]))
        execute("DELETE FROM mailboxes WHERE number = ?", (number,))

    def _line(self, line: int) -> Sequence[int]:
        return self._touched.get(line) or (_FRESH if line in self._forgotten else self._lines.get(line, _FRESH))

    def _touch(self, line: int) -> list[int]:
        known = self._touched.get(line)
        if known is None:
            known = self._touched[line] = list(self._line(line))
        return known

    def _find_trials(self) -> bool:
        return self._connection.execute("SELECT 1 FROM trials LIMIT 1").fetchone() is not None

    def _count(self, line: int) -> int:
        ends = (number_of(line, 0), number_of(line, LAST_PLACE))
        (copies,) = self._connection.execute("SELECT count(*) FROM copies WHERE number BETWEEN ? AND ?", ends).fetchone()
        return copies


def _copies_by_line(numbers: list[int]) -> dict[int, int]:
    """Return how many of these numbers, which are in order, belong to each line."""
    first = numbers[0] >> PLACE_BITS
    if numbers[-1] >> PLACE_BITS == first:
        return {first: len(numbers)}
    return Counter([number >> PLACE_BITS for number in numbers])
