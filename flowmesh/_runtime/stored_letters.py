"""The dead letters in a store that no mesh has open: to look at, to put back, to forget.

What `mesh.dead_letters` does while a mesh runs, on the records alone: no actor's type is known here, so bodies are shown as
MessagePack has them and put back as the bytes that they were. The store must be one that works without an event loop.
"""

from collections.abc import Callable, Iterable
from queue import SimpleQueue
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from flowmesh._core.records import LAST_PLACE, Batch, Contents, Line, Row, line_of, lines_of, number_of
from flowmesh._runtime.recording import Record
from flowmesh.errors import StoreError
from flowmesh.message import Death
from flowmesh.ports import Store

__all__ = ["DEAD_LETTERS", "Letter", "Replayed", "letters_in", "purge", "replay"]

DEAD_LETTERS: Final = "mesh.dead_letters"
"""The name of the mailbox in which they rest."""
_STEP: Final = 500
"""Copies that are read at a time."""

_records: Final = msgspec.msgpack.Decoder(Record)


class Letter(Struct, frozen=True):
    """One dead letter. `number`: of its copy; `id`: of its message; `death`: the newest of its history."""

    number: int
    id: str
    record: Record
    death: Death

    @property
    def body(self) -> Any:
        """The body, as MessagePack has it: a Struct is a dict."""
        return msgspec.msgpack.decode(self.record.body)


class Replayed(Struct, frozen=True):
    """What became of letters that were to be put back. `stayed`: those whose mailbox is not in the store."""

    back: int
    stayed: tuple[Letter, ...]


def letters_in(rows: Iterable[Row]) -> list[Letter]:
    """Return the letters that copies of the mailbox of dead letters are; what cannot be read is left out."""
    letters: list[Letter] = []
    for row in rows:
        try:
            record = _records.decode(row.record)
        except msgspec.DecodeError:
            continue  # Of a newer version, and none of ours to touch.
        if record.more is not None and record.more.deaths:
            serial = record.serial
            id = serial if isinstance(serial, str) else f"{record.prefix}{serial}"
            letters.append(Letter(row.number, id, record, record.more.deaths[0]))
    return letters


def replay(store: Store, is_meant: Callable[[Letter], bool], *, wall: float) -> Replayed:
    """Put letters back into the mailboxes they died in, all of them or none, with fresh attempts and their history.

    Nobody is asked for room. Blocks.

    Args:
        store: closed, and closed again at the end.
        is_meant: says of a letter whether it is to be put back.
        wall: wall-clock seconds of this moment, from which on a copy counts its ttl.

    Raises:
        StoreError: it cannot be opened, or nothing has been written.
    """
    contents = store.open()
    try:
        batch = _Written()
        placed = {line: known.placed for line, known in contents.lines.items()}
        stayed: list[Letter] = []
        for letter in _meant(store, contents, is_meant):
            mailbox = contents.mailboxes.get(letter.death.mailbox)
            if mailbox is None:
                stayed.append(letter)
                continue
            line = _line_for(mailbox, letter, contents.lines)
            placed[line] = placed.get(line, 0) + 1
            batch.puts.append((number_of(line, placed[line]), msgspec.msgpack.encode(replace(letter.record, since=wall))))
            batch.drops.append(letter.number)
        batch.write(store, contents)
        return Replayed(len(batch.drops), tuple(stayed))
    finally:
        store.close()


def purge(store: Store, is_meant: Callable[[Letter], bool]) -> int:
    """Forget letters for good, and return how many. Blocks.

    Args:
        store: closed, and closed again at the end.
        is_meant: says of a letter whether it is to be forgotten.

    Raises:
        StoreError: it cannot be opened, or nothing has been written.
    """
    contents = store.open()
    try:
        batch = _Written()
        batch.drops += [letter.number for letter in _meant(store, contents, is_meant)]
        batch.write(store, contents)
        return len(batch.drops)
    finally:
        store.close()


def _meant(store: Store, contents: Contents, is_meant: Callable[[Letter], bool]) -> Iterable[Letter]:
    lines = _resting_in(contents)
    if not lines:
        return
    answers: SimpleQueue[list[Row] | StoreError] = SimpleQueue()
    first, last = number_of(lines[0], 0), number_of(lines[-1], LAST_PLACE)
    while True:
        store.read(first, last, limit=_STEP, done=answers.put)
        rows = answers.get()
        if isinstance(rows, StoreError):
            raise rows
        yield from filter(is_meant, letters_in(rows))
        if len(rows) < _STEP:
            return
        first = rows[-1].number + 1


def _resting_in(contents: Contents) -> range:
    mailbox = contents.mailboxes.get(DEAD_LETTERS)
    return lines_of(0)[:0] if mailbox is None else lines_of(mailbox)


def _line_for(mailbox: int, letter: Letter, lines: dict[int, Line]) -> int:
    """Return where a letter is put: by its priority in a mailbox that is known to go by priorities."""
    assert letter.record.more is not None
    own = line_of(mailbox, letter.record.more.priority)
    return own if own in lines else line_of(mailbox, 0)


class _Written(Batch):
    """A batch that somebody waits for."""

    __slots__ = ("_answer",)

    def __init__(self) -> None:
        self._answer: SimpleQueue[StoreError | None] = SimpleQueue()
        super().__init__(self._answer.put)

    def write(self, store: Store, contents: Contents) -> None:
        """Write it; the letters that were read for it are in nobody's hands."""
        resting = _resting_in(contents)
        self.marks |= {line: known.marked for line, known in contents.lines.items() if line in resting}
        store.append(self)
        error = self._answer.get()
        if error is not None:
            raise error
