"""What is in a store's file, read without a mesh."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import msgspec

from flowmesh._core.records import LAST_PLACE, Contents, Row, lines_of, number_of
from flowmesh.errors import StoreError
from flowmesh.stores import SQLiteStore

__all__ = ["bodies_in", "look_into"]


@contextmanager
def look_into(path: Path) -> Generator[tuple[SQLiteStore, Contents]]:
    """Open the store, which nobody may own any more."""
    store = SQLiteStore(path, durability="process", reserve=0)
    contents = store.open()
    try:
        assert contents.quarantined == 0
        yield store, contents
    finally:
        store.close()


def bodies_in(path: Path, mailbox: str) -> list[Any]:
    """Return the bodies of the copies of a mailbox, decoded, in their order."""
    with look_into(path) as (store, contents):
        if mailbox not in contents.mailboxes:
            return []
        lines = lines_of(contents.mailboxes[mailbox])
        answers: SimpleQueue[list[Row] | StoreError] = SimpleQueue()
        first, last = number_of(lines[0], 0), number_of(lines[-1], LAST_PLACE)
        store.read(first, last, limit=10_000_000, done=answers.put)
        rows = answers.get()
        assert isinstance(rows, list), rows
        found = [msgspec.msgpack.decode(row.record)[3] for row in rows]
        assert len(found) == sum(line.copies for of, line in contents.lines.items() if of in lines)
        return found
