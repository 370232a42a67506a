"""The writer's thread: what it does together, and what it does when its disk fails."""

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowmesh._core.records import Line, Trial
from flowmesh.errors import StoreError
from flowmesh.stores import SQLiteStore
from flowmesh.stores.connecting import abandon
from tests.stores.giving import LINE, batch_of, copy, give_now, read_now


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLiteStore]:
    """An open store, with a mailbox."""
    opened = SQLiteStore(tmp_path / "shop.db")
    opened.open()
    give_now(opened, mailboxes=[(1, "one")])
    yield opened
    opened.close()


class Held:
    """Keeps the writer busy until it is released, so that what is given meanwhile is one group."""

    def __init__(self, store: SQLiteStore) -> None:
        self.release = threading.Event()
        holding = threading.Event()
        batch, _ = batch_of()
        batch.done = lambda error: (holding.set(), self.release.wait(30))[0]
        store.append(batch)
        holding.wait(30)


def statements(store: SQLiteStore) -> list[str]:
    """Return a list that fills with the statements that the writer executes from now on."""
    seen: list[str] = []
    writer: Any = store._writer
    batch, said = batch_of()
    batch.done = lambda error: (writer.connection.set_trace_callback(seen.append), said.set_result(error))[1]
    store.append(batch)
    said.result(30)
    return seen


def test_what_waits_is_written_in_one_transaction(store: SQLiteStore) -> None:
    """However many gave it."""
    seen = statements(store)
    held = Held(store)
    batches = [batch_of(copy(place)) for place in range(1, 101)]
    for batch, _ in batches:
        store.append(batch)
    held.release.set()
    assert [said.result(30) for _, said in batches] == [None] * 100
    assert len([line for line in seen if line == "COMMIT"]) == 2  # Holding was one.
    assert len([line for line in seen if line.startswith("INSERT INTO copies")]) == 1


def test_what_ends_makes_room_for_what_is_new(store: SQLiteStore) -> None:
    """In one transaction the old copies go first: their pages take the new ones, and are written to the log once."""
    give_now(store, *(copy(place) for place in range(1, 101)), marks={LINE: 100})
    log = Path(f"{store.path}-wal")
    for begin in range(1, 1001, 100):
        before, seen = log.stat().st_size, statements(store)
        new = [copy(place) for place in range(begin + 100, begin + 200)]
        drops = [copy(place)[0] for place in reversed(range(begin, begin + 100))]
        assert give_now(store, *new, drops=drops) is None
        assert log.stat().st_size - before <= 7 * 4120
        kinds = [line.split()[0] for line in seen]
        assert kinds.index("DELETE") < kinds.index("INSERT")
    assert [row.number for row in read_now(store)] == [copy(place)[0] for place in range(1001, 1101)]


def test_what_ends_in_the_transaction_that_it_came_in(store: SQLiteStore) -> None:
    """It is not there, whether or not others of the same transaction were there before; nor is its trial."""
    give_now(store, copy(1), copy(2), marks={LINE: 2})
    held = Held(store)
    batches = [
        batch_of(copy(3), copy(4), trials=[(copy(1)[0], Trial(1)), (copy(4)[0], Trial(2))]),
        batch_of(copy(5), drops=[copy(4)[0], copy(1)[0]]),
    ]
    for batch, _ in batches:
        store.append(batch)
    held.release.set()
    assert [said.result(30) for _, said in batches] == [None] * 2
    assert [(row.number, row.trial) for row in read_now(store)] == [(copy(place)[0], None) for place in (2, 3, 5)]
    store.close()
    assert store.open().lines == {LINE: Line(placed=5, marked=5, copies=3)}


def test_large_records_are_written_in_several(store: SQLiteStore) -> None:
    """A group has a size, so that nobody waits for a gigabyte; one that is larger by itself is a group."""
    seen = statements(store)
    held = Held(store)
    batches = [batch_of(copy(place, body=bytes(3 << 20))) for place in range(1, 5)]
    for batch, _ in batches:
        store.append(batch)
    held.release.set()
    assert [said.result(30) for _, said in batches] == [None] * 4
    assert len([line for line in seen if line == "COMMIT"]) == 5


def test_the_log_stays_bounded(store: SQLiteStore) -> None:
    """However much is written: it is carried over into the file, and begun again."""
    log = Path(f"{store.path}-wal")
    for place in range(1, 40):
        assert give_now(store, copy(place, body=bytes(1 << 20)), drops=[copy(place - 1)[0]]) is None
        assert log.stat().st_size < 7 << 20
    assert store.path.stat().st_size < 12 << 20


def test_a_closed_store_is_one_file(store: SQLiteStore) -> None:
    """An orderly end leaves no log: the file can be copied as it is."""
    give_now(store, copy(1))
    assert Path(f"{store.path}-wal").stat().st_size > 0
    store.close()
    assert not Path(f"{store.path}-wal").exists()
    assert len(list(store.path.parent.glob("shop.db*"))) == 3


def test_an_abandoned_connection_writes_nothing(store: SQLiteStore, tmp_path: Path) -> None:
    """After an error of the disk the log is left to the next owner, with all that is in it."""
    give_now(store, copy(1), copy(2))
    (tmp_path / "copy.db").write_bytes(store.path.read_bytes())
    log = Path(f"{store.path}-wal").read_bytes()
    (tmp_path / "copy.db-wal").write_bytes(log)
    before = (tmp_path / "copy.db").read_bytes()
    connection = sqlite3.connect(tmp_path / "copy.db", isolation_level=None)
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    assert connection.execute("SELECT count(*) FROM copies").fetchone() == (2,)
    abandon(connection)
    assert (tmp_path / "copy.db").read_bytes() == before
    assert (tmp_path / "copy.db-wal").read_bytes() == log


def test_a_store_that_broke_confirms_nothing_until_it_is_opened_anew(
    store: SQLiteStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Every waiting and later batch and read is told why; what was confirmed before is there."""
    give_now(store, copy(1))
    writer: Any = store._writer

    def fail() -> None:
        raise OSError(5, "Input/output error")

    held = Held(store)
    batches = [batch_of(copy(place)) for place in (2, 3)]
    for batch, _ in batches:
        store.append(batch)
    monkeypatch.setattr(writer._room, "check_in_place", fail)
    held.release.set()
    assert [type(said.result(30)) for _, said in batches] == [StoreError, StoreError]
    monkeypatch.undo()
    assert "nothing more is confirmed" in caplog.text
    first, second = give_now(store, copy(4)), give_now(store, copy(4))
    assert isinstance(first, StoreError)
    assert isinstance(second, StoreError)
    assert first is not second
    assert str(store.path) in str(first)
    with pytest.raises(StoreError, match="Input/output error"):
        read_now(store)
    store.close()
    assert store.open().lines[LINE].copies == 1
    assert give_now(store, copy(5)) is None


def test_what_cannot_be_stored_is_refused_alone(store: SQLiteStore) -> None:
    """A number that SQLite cannot hold, a record that is no bytes: the others are written."""
    held = Held(store)
    wrong: Any = "a text"
    batches = [batch_of(copy(1)), batch_of((1 << 63, b"")), batch_of(copy(2)), batch_of((copy(3)[0], wrong)), batch_of(copy(4))]
    for batch, _ in batches:
        store.append(batch)
    held.release.set()
    assert [said.result(30) is None for _, said in batches] == [True, False, True, False, True]
    assert len(read_now(store)) == 3
