"""A store whose disk is full: what is new is refused, what ends is still written, and it recovers by itself.

The disk is a tmpfs of 512 KiB, mounted for each test.
"""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowmesh._core.records import Trial
from flowmesh.errors import StoreError, StoreFull
from flowmesh.stores import SQLiteStore
from tests.stores.giving import LINE, batch_of, copy, give_now, read_now

ROUNDS = 20
BODY = bytes(1000)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 512 KiB."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k,mode=700", "tmpfs", tmp_path], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)


def fill(store: SQLiteStore, place: int) -> tuple[list[int], int]:
    """Put copies until there is no room; return the numbers of those that were confirmed, and the next place."""
    confirmed: list[int] = []
    while True:
        error = give_now(store, copy(place, body=BODY))
        if error is not None:
            assert type(error) is StoreFull, error
            return confirmed, place + 1
        confirmed.append(copy(place)[0])
        place += 1


def test_filled_freed_and_refilled(disk: Path) -> None:
    """Whatever is confirmed is there, every end is written, and each round finds as much room as the first."""
    store = SQLiteStore(disk / "shop.db")
    store.open()
    give_now(store, mailboxes=[(1, "one")])
    place, found = 1, []
    for number in range(ROUNDS):
        confirmed, place = fill(store, place)
        found.append(len(confirmed))
        assert type(give_now(store, copy(place, body=BODY))) is StoreFull
        assert [row.number for row in read_now(store)] == confirmed
        assert give_now(store, trials=[(confirmed[0], Trial(number))], marks={LINE: place}) is None
        if number % 3 == 2:
            store.close()
            contents = store.open()
            assert contents.lines[LINE].copies == len(confirmed)
        for each in confirmed[: len(confirmed) // 2]:
            assert give_now(store, drops=[each]) is None
        batches = [batch_of(drops=[each]) for each in confirmed[len(confirmed) // 2 :]]
        for batch, _ in batches:
            store.append(batch)
        assert [said.result(30) for _, said in batches] == [None] * len(batches)
        assert read_now(store) == []
    store.close()
    assert min(found) > 100
    assert min(found) > max(found) * 0.7, found


def test_it_recovers_when_there_is_room(disk: Path) -> None:
    """Somebody else fills the disk: acks go on without end; when that is deleted, all is as before."""
    store = SQLiteStore(disk / "shop.db")
    store.open()
    reserve = Path(f"{store.path}-reserve")
    size = reserve.stat().st_size
    assert size
    for place in range(1, 101):
        assert give_now(store, copy(place, body=BODY), mailboxes=[(1, "one")]) is None
    ballast = disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    confirmed, place = fill(store, 101)
    assert reserve.stat().st_size == 0
    for number in range(3000):  # Many times what the log may hold.
        assert give_now(store, trials=[(copy(1 + number % 50)[0], Trial(number))]) is None
    for each in range(1, 91):
        assert give_now(store, drops=[copy(each)[0]]) is None
    ballast.unlink()
    assert give_now(store, copy(place, body=BODY)) is None
    assert reserve.stat().st_size == size
    numbers = [row.number for row in read_now(store)]
    assert numbers == [*(copy(each)[0] for each in range(91, 101)), *confirmed, copy(place)[0]]
    store.close()


def test_one_that_is_full_is_opened_again(disk: Path) -> None:
    """A full disk does not keep what is stored from being opened, read and ended."""
    store = SQLiteStore(disk / "shop.db")
    store.open()
    give_now(store, mailboxes=[(1, "one")])
    confirmed, _ = fill(store, 1)
    with contextlib.suppress(OSError), (disk / "ballast").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(512))
    store.close()
    with contextlib.suppress(OSError), (disk / "ballast").open("ab", buffering=0) as file:
        while True:
            file.write(bytes(512))
    assert store.open().lines[LINE].copies == len(confirmed)
    assert [row.number for row in read_now(store)] == confirmed
    for each in confirmed:
        assert give_now(store, drops=[each]) is None
    store.close()


def test_a_disk_that_is_full_from_the_beginning(disk: Path) -> None:
    """A new store has no room to be made: that is said when it is opened, and the next try finds out whether there is."""
    ballast = disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    store = SQLiteStore(disk / "shop.db")
    with pytest.raises(StoreError, match=r"full|No space"):
        store.open()
    ballast.unlink()
    store.open()
    assert give_now(store, copy(1), mailboxes=[(1, "one")]) is None
    store.close()


def test_a_disk_that_is_nearly_full_is_not_full(disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The reserve takes half of what is free at most: a store is made, and takes something."""
    (disk / "ballast").write_bytes(bytes(200 << 10))
    store = SQLiteStore(disk / "shop.db")
    store.open()
    assert 128 << 10 <= Path(f"{store.path}-reserve").stat().st_size <= 156 << 10
    assert give_now(store, copy(1), mailboxes=[(1, "one")]) is None
    store.close()
    assert caplog.text == ""


def test_without_a_reserve(disk: Path) -> None:
    """`reserve=0` keeps nothing back: no file is made for it."""
    store = SQLiteStore(disk / "shop.db", reserve=0)
    store.open()
    assert not Path(f"{store.path}-reserve").exists()
    store.close()
