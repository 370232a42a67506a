"""Files of older and newer versions, and of somebody else."""

import sqlite3
from pathlib import Path

import pytest

from flowmesh.errors import StoreCorrupt, StoreError
from flowmesh.stores import SQLiteStore, inspecting, schema
from flowmesh.stores.inspecting import check, info
from tests.stores import traced_child
from tests.stores.giving import copy, give_now, read_now


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """A store of this version, which the next one is to find."""
    path = tmp_path / "shop.db"
    store = SQLiteStore(path)
    store.open()
    give_now(store, copy(1), copy(2), mailboxes=[(1, "one")], kept=[("once", "key", b"value")])
    store.close()
    return path


@pytest.fixture
def next_version(older: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on there is one version more."""
    del older
    steps = (*schema.STEPS, traced_child.NEXT_STEP)
    monkeypatch.setattr(schema, "STEPS", steps)
    monkeypatch.setattr(inspecting, "STEPS", steps)


@pytest.mark.usefixtures("next_version")
def test_an_older_file_is_brought_up_to_date(older: Path) -> None:
    """When it is opened, with everything in it; once is enough."""
    for _ in range(2):
        store = SQLiteStore(older)
        assert store.open().kept == {("once", "key"): b"value"}
        assert len(read_now(store)) == 2
        store.close()
    assert info(older).version == 2
    connection = sqlite3.connect(older)
    assert connection.execute("SELECT copies FROM counted").fetchall() == [(2,)]
    connection.close()


@pytest.mark.usefixtures("next_version")
def test_looking_does_not_bring_up_to_date(older: Path) -> None:
    """A file of another version is not changed by those who look at it: they say what to do."""
    for look in (info, check):
        with pytest.raises(StoreError, match="of version 1, this Flowmesh works with version 2"):
            look(older)
    connection = sqlite3.connect(older)
    assert connection.execute("PRAGMA user_version").fetchone() == (1,)
    connection.close()


def test_a_step_that_fails_leaves_the_older_version(older: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All steps are taken, or none: the file can be opened as before."""
    with monkeypatch.context() as patch:
        steps = (*schema.STEPS, traced_child.NEXT_STEP, ("DROP TABLE timers", "DROP TABLE nothing"))
        patch.setattr(schema, "STEPS", steps)
        with pytest.raises(StoreError):
            SQLiteStore(older).open()
    store = SQLiteStore(older)
    assert store.open().kept == {("once", "key"): b"value"}
    store.close()
    assert check(older).is_sound


def test_a_newer_file_is_refused_and_left_alone(older: Path) -> None:
    """The error says which Flowmesh to use."""
    connection = sqlite3.connect(older)
    connection.execute("PRAGMA user_version = 7")
    connection.close()
    before = older.read_bytes()
    with pytest.raises(StoreCorrupt, match=r"of version 7.*or a newer one"):
        SQLiteStore(older).open()
    assert older.read_bytes() == before


def test_somebody_elses_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    """Whatever its tables are called."""
    path = tmp_path / "mine.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE copies (number INTEGER PRIMARY KEY)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreCorrupt, match="not a store of Flowmesh"):
        SQLiteStore(path).open()
    assert path.read_bytes() == before


def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    """As one that a crash has left between being made and being filled."""
    path = tmp_path / "shop.db"
    path.touch()
    store = SQLiteStore(path)
    store.open()
    store.close()
    assert info(path).version == len(schema.STEPS)
