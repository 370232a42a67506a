"""Who may use a store's files: one process at a time, its user only, and no fork."""

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowmesh.errors import StoreCorrupt, StoreError, StoreLocked
from flowmesh.stores import SQLiteStore
from flowmesh.stores.inspecting import check, info
from tests.stores.giving import LINE, copy, give_now, read_now

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SIZE = int(os.environ.get("FLOWMESH_STORE_SIZE", "1"))
ROUNDS, STARTS = 10 * SIZE, 20
FORKS = 100 * SIZE

OWNER = """
import sys
from flowmesh.stores import SQLiteStore
store = SQLiteStore(sys.argv[1])
store.open()
print("open", flush=True)
sys.stdin.read()
store.close()
"""


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the store `shop.db` open until it is told to close it."""
    command = [sys.executable, "-c", OWNER, str(tmp_path / "shop.db")]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield process
        process.kill()


def test_a_second_process_is_refused_at_once(owner: subprocess.Popen[str], tmp_path: Path) -> None:
    """In under a second, with the owner's pid; looking at the file is refused as well."""
    began = time.monotonic()
    with pytest.raises(StoreLocked, match=f"process {owner.pid} ") as refused:
        SQLiteStore(tmp_path / "shop.db").open()
    assert time.monotonic() - began < 1.0
    assert refused.value.pid == owner.pid
    for look in (info, check):
        with pytest.raises(StoreLocked, match="stop that one or wait until it has ended"):
            look(tmp_path / "shop.db")


def test_the_lock_ends_with_its_process(owner: subprocess.Popen[str], tmp_path: Path) -> None:
    """However that ends: the next one owns it at once."""
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    store = SQLiteStore(tmp_path / "shop.db")
    store.open()
    store.close()


def test_without_its_lock_file_it_is_locked_all_the_same(owner: subprocess.Popen[str], tmp_path: Path) -> None:
    """Somebody deletes the lock's file: SQLite's own lock is still there."""
    del owner
    (tmp_path / "shop.db.lock").unlink()
    with pytest.raises(StoreLocked, match="another program"):
        SQLiteStore(tmp_path / "shop.db").open()


def test_racing_starts_have_one_owner(tmp_path: Path) -> None:
    """Of many that start at the same moment one owns the store, and the others name it."""
    for number in range(ROUNDS):
        path = tmp_path / f"shop{number % 2}.db"  # A new one, and one that is there.
        command = [sys.executable, HERE / "racing_child.py", path, str(STARTS)]
        ended = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
            timeout=50,
        )
        lines = [line.split() for line in ended.stdout.splitlines()]
        owners = [line[1] for line in lines if line[0] == "own"]
        assert len(owners) == 1, ended.stdout
        assert len(lines) == STARTS
        assert {line[2] for line in lines if line[0] == "locked"} == {owners[0]}
        assert ended.stderr == ""


def test_forks_do_no_harm(tmp_path: Path) -> None:
    """Every call in a fork is refused; however it ends, the owner goes on, and the file is intact."""
    path = tmp_path / "shop.db"
    command = [sys.executable, HERE / "forking_child.py", path, str(FORKS)]
    ended = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False, timeout=50
    )
    assert ended.returncode == 0, ended.stderr
    confirmed = int(ended.stdout)
    assert confirmed > FORKS / 10
    assert check(path).is_sound
    store = SQLiteStore(path)
    assert store.open().lines[LINE].copies == confirmed
    store.close()


def test_its_files_are_their_users_own(tmp_path: Path) -> None:
    """Whatever the umask is, and whatever the rights of an older file were."""
    path = tmp_path / "shop.db"
    for umask in (0o000, 0o777):
        before = os.umask(umask)
        try:
            store = SQLiteStore(path)
            store.open()
            assert give_now(store, copy(1 + umask), mailboxes=[(1, "one")]) is None
        finally:
            os.umask(before)
        files = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
        assert files == dict.fromkeys(("shop.db", "shop.db-wal", "shop.db-reserve", "shop.db.lock"), 0o600)
        store.close()
        path.chmod(0o644)


def test_a_folder_where_everybody_may_replace_files_is_refused(tmp_path: Path) -> None:
    """Unless it is sticky, as /tmp is."""
    folder = tmp_path / "everybody"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(StoreError, match="chmod o-w"):
        SQLiteStore(folder / "shop.db").open()
    assert list(folder.iterdir()) == []
    folder.chmod(0o1777)
    store = SQLiteStore(folder / "shop.db")
    store.open()
    store.close()


@pytest.mark.parametrize("suffix", ["", "-wal", ".lock", "-reserve", "-journal"])
def test_links_and_folders_are_refused(tmp_path: Path, suffix: str) -> None:
    """For each of its files: what would be written is somewhere else, or no file at all."""
    target = tmp_path / "target"
    target.write_bytes(b"mine")
    (tmp_path / f"link.db{suffix}").symlink_to(target)
    with pytest.raises(StoreError, match="symbolic link"):
        SQLiteStore(tmp_path / "link.db").open()
    assert target.read_bytes() == b"mine"
    (tmp_path / f"folder.db{suffix}").mkdir()
    with pytest.raises(StoreError, match="is not a file"):
        SQLiteStore(tmp_path / "folder.db").open()


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    """The error says what to do."""
    path = tmp_path / "notes.txt"
    path.write_text("my notes\n" * 1000)
    with pytest.raises(StoreCorrupt, match="no SQLite database"):
        SQLiteStore(path).open()
    assert path.read_text() == "my notes\n" * 1000


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """It is not made on the way."""
    with pytest.raises(StoreError, match="make it first"):
        SQLiteStore(tmp_path / "none" / "shop.db").open()


def test_one_that_could_not_be_opened_is_not_kept_locked(tmp_path: Path) -> None:
    """After the reason is gone the same object can be opened."""
    path = tmp_path / "shop.db"
    path.write_text("my notes\n" * 1000)
    store = SQLiteStore(path)
    with pytest.raises(StoreCorrupt):
        store.open()
    path.unlink()
    store.open()
    assert give_now(store, copy(1), mailboxes=[(1, "one")]) is None
    store.close()


@pytest.mark.parametrize("given", [{"durability": "none"}, {"durability": "always"}, {"reserve": -1}])
def test_what_makes_no_sense_is_refused(given: dict[str, object]) -> None:
    """A wrong argument is named where it is given."""
    with pytest.raises(ValueError, match=next(iter(given))):
        SQLiteStore("shop.db", **given)  # pyright: ignore[reportArgumentType] - that is the point


def test_a_file_that_is_replaced_breaks_the_store(tmp_path: Path) -> None:
    """What is written then would be found by nobody, so nothing more is confirmed."""
    store = SQLiteStore(tmp_path / "shop.db")
    store.open()
    assert give_now(store, copy(1), mailboxes=[(1, "one")]) is None
    (tmp_path / "shop.db").rename(tmp_path / "old.db")
    assert type(give_now(store, copy(2))) is StoreError
    with pytest.raises(StoreError):
        read_now(store)
    store.close()
