"""Damaged files: no altered record is ever given to anybody, what is damaged is kept and told, and the rest can be salvaged."""

import os
import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from flowmesh._core.records import LAST_PLACE, Line, Trial, line_of, number_of
from flowmesh.errors import NotFound, StoreCorrupt, StoreError
from flowmesh.stores import SQLiteStore
from flowmesh.stores.inspecting import check, info, rows_of
from flowmesh.stores.salvage import salvage
from tests.stores.giving import LINE, OTHER, copy, give_now, read_now

SIZE = int(os.environ.get("FLOWMESH_STORE_SIZE", "1"))
FLIPS = 1000 * SIZE
TRUNCATIONS = 200 * SIZE

BODIES = {place: random.Random(place).randbytes(10 + place * 7 % 300) for place in range(1, 300)} | {300: bytes(20_000)}
TIMERS = {id: f"timer {id}".encode() for id in range(1, 50)}
KEPT = {("once", f"key {number}"): f"value {number}".encode() for number in range(100)}
NAMES = {"orders": 1, "orders.dead": 2, "mails": 3}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with something of everything, closed."""
    path = tmp_path_factory.mktemp("sound") / "shop.db"
    store = SQLiteStore(path, reserve=0)
    store.open()
    puts = [copy(place, line=line, body=body) for line in (LINE, OTHER, line_of(2, 7)) for place, body in BODIES.items()]
    first = give_now(
        store,
        *puts,
        mailboxes=[(number, name) for name, number in NAMES.items()],
        timers=list(TIMERS.items()),
        kept=[(*which, value) for which, value in KEPT.items()],
        trials=[(number, Trial(number % 7)) for number, _ in puts[::10]],
        marks={LINE: 20},
    )
    assert first is None
    assert give_now(store, drops=[number for number, _ in puts[5::6]]) is None
    store.close()
    return path


def everything(path: Path) -> tuple[dict[int, bytes], SQLiteStore | None]:
    """Open a store as a mesh does, compare what it says with what was written, and return its copies."""
    store = SQLiteStore(path, reserve=0, durability="process")
    try:
        contents = store.open()
    except StoreError:
        return {}, None
    assert contents.timers.items() <= TIMERS.items()
    assert contents.kept.items() <= KEPT.items()
    assert {name: number for name, number in contents.mailboxes.items() if "name lost" not in name}.items() <= NAMES.items()
    copies: dict[int, bytes] = {}
    try:
        first = 0
        while rows := read_now(store, first=first, limit=100):
            copies.update((row.number, row.record) for row in rows)
            first = rows[-1].number + 1
    except StoreError:
        store.close()
        return copies, None
    return copies, store


def is_unaltered(copies: dict[int, bytes]) -> bool:
    """Every copy has the body that was put."""
    return all(BODIES[number & LAST_PLACE] == record for number, record in copies.items())


@pytest.fixture
def quick() -> Iterator[Path]:
    """A folder in memory, where there is one: these tests write many files, and are about what is read."""
    with TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        yield Path(folder)


def test_a_flipped_bit_alters_nothing_that_is_given(sound: Path, quick: Path) -> None:
    """A thousand times: what a store gives is what was written, or it is left out, or the store refuses to go on."""
    content = sound.read_bytes()
    everywhere, whole = everything(Path(shutil.copy(sound, quick / "whole.db")))
    assert whole is not None
    whole.close()
    assert len(everywhere) == 750
    path = quick / "shop.db"
    seen: Counter[str] = Counter()
    for number in range(FLIPS):
        chance = random.Random(f"flip {number}")
        place, bit = chance.randrange(len(content)), chance.randrange(8)
        flipped = bytearray(content)
        flipped[place] ^= 1 << bit
        path.write_bytes(flipped)
        Path(f"{path}-wal").unlink(missing_ok=True)
        copies, store = everything(path)
        assert is_unaltered(copies), number
        if store is None:
            seen["refused"] += 1
        else:
            seen["whole" if copies == everywhere else "left out"] += 1
            store.close()
    print(dict(seen))
    assert min(seen["refused"], seen["whole"], seen["left out"]) > 20


def test_a_truncated_file_alters_nothing_that_is_given(sound: Path, quick: Path) -> None:
    """Two hundred lengths: the same."""
    content = sound.read_bytes()
    path = quick / "shop.db"
    for number in range(TRUNCATIONS):
        length = random.Random(f"length {number}").randrange(len(content))
        path.write_bytes(content[:length])
        Path(f"{path}-wal").unlink(missing_ok=True)
        copies, store = everything(path)
        assert is_unaltered(copies), number
        if store is not None:
            store.close()


def change(path: Path, sql: str, *given: object) -> None:
    """Change a file behind the store's back."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(sql, given)
    connection.close()


@pytest.fixture
def damaged(sound: Path, tmp_path: Path) -> Path:
    """A copy of the sound store, to be damaged."""
    return Path(shutil.copy(sound, tmp_path / "shop.db"))


def test_a_damaged_copy_is_quarantined(damaged: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is not given to anybody, kept as it is, logged, counted, and no longer one of its line's copies."""
    number = number_of(LINE, 4)
    change(damaged, "UPDATE copies SET record = ? WHERE number = ?", b"altered", number)
    store = SQLiteStore(damaged)
    before = store.open()
    rows = read_now(store, number_of(LINE, 1), number_of(LINE, LAST_PLACE), limit=5)
    assert [row.number - number_of(LINE, 0) for row in rows] == [1, 2, 3, 5, 7]
    assert "damaged" in caplog.text
    assert str(number) in caplog.text
    store.close()
    after = store.open()
    assert (before.quarantined, after.quarantined) == (0, 1)
    assert after.lines[LINE].copies == before.lines[LINE].copies - 1
    store.close()
    connection = sqlite3.connect(damaged)
    assert connection.execute("SELECT source, key, record FROM quarantine").fetchall() == [("copies", number, b"altered")]
    connection.close()


def test_a_record_at_another_place_is_damage(damaged: Path) -> None:
    """A record that stands under another copy's number is not what was written there."""
    change(damaged, "UPDATE copies SET number = ? WHERE number = ?", number_of(LINE, 5000), number_of(LINE, 4))
    copies, store = everything(damaged)
    assert store is not None
    store.close()
    assert number_of(LINE, 5000) not in copies
    assert number_of(LINE, 4) not in copies


def test_a_damaged_trial_leaves_its_copy(damaged: Path) -> None:
    """The copy is given as one that may have been handed out before."""
    number = number_of(LINE, 1)
    change(damaged, "UPDATE trials SET record = ? WHERE number = ?", b"altered", number)
    store = SQLiteStore(damaged)
    store.open()
    (row,) = read_now(store, number, number)
    assert (row.record, row.trial) == (BODIES[1], Trial())
    store.close()
    assert store.open().quarantined == 1
    store.close()


def test_a_damaged_line_begins_behind_its_copies(damaged: Path) -> None:
    """No place is given twice, all of its copies are suspect, and they are counted anew."""
    store = SQLiteStore(damaged)
    before = store.open()
    store.close()
    change(damaged, "UPDATE lines SET placed = 3 WHERE line = ?", LINE)
    after = store.open()
    store.close()
    assert after.quarantined == 1
    assert after.lines[LINE].copies == before.lines[LINE].copies
    assert after.lines[LINE].placed == after.lines[LINE].marked > before.lines[LINE].placed
    assert after.lines[OTHER] == before.lines[OTHER]
    assert check(damaged).is_sound


def test_a_lost_line_is_put_together_again(damaged: Path) -> None:
    """The same when its row has gone."""
    change(damaged, "DELETE FROM lines WHERE line = ?", LINE)
    store = SQLiteStore(damaged)
    assert store.open().lines[LINE].copies == 250
    store.close()


def test_a_mailbox_without_its_name_keeps_its_copies(damaged: Path) -> None:
    """They are not given to a mailbox that comes later: the number stays taken."""
    change(damaged, "UPDATE mailboxes SET name = 'others' WHERE number = 1")
    store = SQLiteStore(damaged)
    contents = store.open()
    assert contents.mailboxes == {"mailbox 1, name lost": 1, "orders.dead": 2, "mails": 3}
    store.close()
    assert store.open().mailboxes == contents.mailboxes
    store.close()


def test_damaged_timers_values_and_ids(damaged: Path) -> None:
    """They are left out, kept, and counted; no timer's id is given twice."""
    change(damaged, "UPDATE timers SET record = ? WHERE id = 7", b"altered")
    change(damaged, "UPDATE kept SET key = 'key 1000' WHERE key = 'key 10'")
    change(damaged, "UPDATE meta SET value = 2")
    store = SQLiteStore(damaged)
    contents = store.open()
    store.close()
    assert contents.timers == {id: record for id, record in TIMERS.items() if id != 7}
    assert contents.kept == {which: value for which, value in KEPT.items() if which[1] != "key 10"}
    assert contents.last_timer > max(TIMERS)
    assert contents.quarantined == 3


def test_check_finds_what_is_damaged(damaged: Path, sound: Path) -> None:
    """Every row, count and page is looked at; nothing is changed."""
    report = check(sound)
    assert report.is_sound
    assert report.rows == 750 + 90 + len(TIMERS) + len(KEPT) + len(NAMES) + 3 + 1
    change(damaged, "UPDATE copies SET record = ? WHERE number = ?", b"altered", number_of(LINE, 4))
    change(damaged, "DELETE FROM copies WHERE number = ?", number_of(LINE, 5))
    change(damaged, "DELETE FROM mailboxes WHERE number = 2")
    before = damaged.read_bytes()
    problems = check(damaged).problems
    assert any("copies" in line and str(number_of(LINE, 4)) in line for line in problems)
    assert any("250 copies in line" in line for line in problems)
    assert any("number 2 has copies and no name" in line for line in problems)
    assert damaged.read_bytes() == before


def test_info_counts(sound: Path) -> None:
    """What is in a store, by name."""
    found = info(sound)
    assert found.mailboxes == {"mails": 0, "orders": 250, "orders.dead": 500}
    assert (found.version, found.timers, found.kept, found.quarantined) == (1, 49, {"once": 100}, 0)
    assert found.size == sound.stat().st_size


def test_rows_of_a_mailbox(sound: Path) -> None:
    """The copies of one mailbox, page by page, with what is known of them; none is marked by that."""
    first = rows_of(sound, "orders", limit=3)
    following = rows_of(sound, "orders", after=first[-1].number, limit=1000)
    assert len(first) + len(following) == 250
    assert first[0].trial is not None
    assert [row.record for row in first] == [BODIES[place] for place in (1, 2, 3)]
    with pytest.raises(NotFound, match="no mailbox 'nobody'"):
        rows_of(sound, "nobody")
    store = SQLiteStore(sound)
    assert store.open().lines[LINE] == Line(300, 20, 250)
    store.close()


def test_one_that_is_gone_is_not_made(tmp_path: Path) -> None:
    """Looking at a path where nothing is leaves nothing there."""
    for look in (info, check):
        with pytest.raises(StoreError, match="no such file"):
            look(tmp_path / "shop.db")
    with pytest.raises(StoreError, match="no such file"):
        salvage(tmp_path / "shop.db", tmp_path / "new.db")
    assert not (tmp_path / "shop.db").exists()


def test_salvaging_a_sound_store_copies_it(sound: Path, tmp_path: Path) -> None:
    """Everything is there, and the new file is sound."""
    new = tmp_path / "new.db"
    report = salvage(sound, new)
    assert report.gaps == ()
    assert report.saved["copies"] == 750
    assert check(new).is_sound
    (old_copies, old), (copies, store) = everything(Path(shutil.copy(sound, tmp_path / "old.db"))), everything(new)
    assert store is not None
    assert old is not None
    assert copies == old_copies
    store.close()
    old.close()
    assert store.open() == old.open()
    store.close()
    old.close()


def zero_a_leaf(path: Path) -> None:
    """Destroy a page in the middle of the copies."""
    content = bytearray(path.read_bytes())
    place = content.index(BODIES[150]) // 4096 * 4096
    content[place : place + 4096] = bytes(4096)
    path.write_bytes(content)


def zero_the_first_page(path: Path) -> None:
    """Destroy the page that says where everything is."""
    content = path.read_bytes()
    path.write_bytes(bytes(4096) + content[4096:])


def cut_a_third(path: Path) -> None:
    """Cut the file off."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3 // 4096 * 4096])


@pytest.mark.parametrize("destroy, least", [(zero_a_leaf, 650), (zero_the_first_page, 750), (cut_a_third, 100)])
def test_salvage_takes_what_is_good(damaged: Path, tmp_path: Path, destroy: Callable[[Path], None], least: int) -> None:
    """What is on other pages is saved, unaltered; the damaged file stays as it is; the new one is sound."""
    destroy(damaged)
    before = damaged.read_bytes()
    report = salvage(damaged, tmp_path / "new.db")
    print(report)
    assert report.saved["copies"] >= least
    assert damaged.read_bytes() == before
    assert check(tmp_path / "new.db").is_sound
    copies, store = everything(tmp_path / "new.db")
    assert store is not None
    store.close()
    assert len(copies) == report.saved["copies"]
    assert is_unaltered(copies)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == []


def test_salvage_does_not_write_over_anything(sound: Path, tmp_path: Path) -> None:
    """The new file must be new."""
    (tmp_path / "new.db").write_text("mine")
    with pytest.raises(StoreError, match="is there already"):
        salvage(sound, tmp_path / "new.db")
    assert (tmp_path / "new.db").read_text() == "mine"


def test_a_damaged_page_breaks_the_store(damaged: Path) -> None:
    """What cannot be read is an error that names the mend, and nothing more is confirmed until it is opened anew."""
    zero_a_leaf(damaged)
    store = SQLiteStore(damaged)
    store.open()
    with pytest.raises(StoreCorrupt, match="flowmesh store salvage"):
        read_now(store)
    assert isinstance(give_now(store, copy(1000)), StoreCorrupt)
    store.close()
    store.open()
    store.close()
