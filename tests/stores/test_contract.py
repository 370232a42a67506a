"""What every store promises: one suite for all adapters of `flowmesh.ports.Store`."""

from collections.abc import Callable
from concurrent.futures import Future

import anyio
import anyio.to_thread
import pytest

from flowmesh._core.records import LAST_PLACE, Contents, Line, Row, Trial, line_of, lines_of, number_of
from flowmesh.errors import StoreError, StoreLocked
from flowmesh.ports import Store
from flowmesh.stores import MemoryStore, SQLiteStore
from tests.stores.giving import EVERYTHING, LINE, OTHER, AnyStore, batch_of, copy, give, read

Reopened = Callable[[], AnyStore]

pytestmark = pytest.mark.anyio


async def test_a_new_store_is_empty(reopened: Reopened) -> None:
    """Opening what is not there yet makes it, with nothing in it."""
    assert reopened().open() == Contents({}, {}, {}, 0, {})


async def test_it_is_a_store(reopened: Reopened) -> None:
    """An adapter has the port's shape and says what a confirmed batch survives."""
    store: Store = reopened()
    assert store.durability in ("none", "process", "power")


async def test_copies_come_back_as_the_same_bytes(reopened: Reopened) -> None:
    """Whatever the bytes are, they are read as they were put, also after a restart."""
    bodies = [b"", b"\0", bytes(range(256)), b"x" * 100_000, "ü".encode()]
    puts = [copy(place, body=body) for place, body in enumerate(bodies, 1)]
    store = reopened()
    store.open()
    assert await give(store, *puts, mailboxes=[(1, "one")]) is None
    assert await read(store) == [Row(number, record) for number, record in puts]
    store = reopened()
    store.open()
    assert await read(store) == [Row(number, record) for number, record in puts]


async def test_contents_are_there_after_a_restart(reopened: Reopened) -> None:
    """Mailboxes, lines, timers and kept values are said when the store is opened again."""
    store = reopened()
    store.open()
    await give(
        store,
        copy(1),
        copy(2),
        copy(7, line=OTHER),
        mailboxes=[(1, "one"), (2, "zwei ü")],
        timers=[(3, b"t"), (9, b"u")],
        kept=[("once", "a", b"1"), ("once", "b", b""), ("rate", "a", b"2")],
        marks={LINE: 1},
    )
    await give(store, drops=[copy(2)[0]], timers=[(9, None)], kept=[("once", "a", None), ("rate", "a", b"3")])
    assert reopened().open() == Contents(
        mailboxes={"one": 1, "zwei ü": 2},
        lines={LINE: Line(placed=2, marked=1, copies=1), OTHER: Line(placed=7, copies=1)},
        timers={3: b"t"},
        last_timer=9,
        kept={("once", "b"): b"", ("rate", "a"): b"3"},
    )


async def test_places_are_remembered_when_their_copies_have_ended(reopened: Reopened) -> None:
    """The last place given stays, so that none is given twice."""
    store = reopened()
    store.open()
    await give(store, copy(1), copy(5), mailboxes=[(1, "one")])
    await give(store, drops=[copy(1)[0], copy(5)[0]])
    assert reopened().open().lines == {LINE: Line(placed=5)}


async def test_reading_is_in_order_and_limited(reopened: Reopened) -> None:
    """Higher priorities come first, then places in order; fewer than the limit mean that there are no more."""
    low, high = line_of(1, 0), line_of(1, 9)
    puts = [copy(place, line=line) for place in (3, 1, 2) for line in (low, high)]
    store = reopened()
    store.open()
    await give(store, *puts, copy(1, line=OTHER), mailboxes=[(1, "one"), (2, "two")])
    first, last = number_of(lines_of(1)[0], 0), number_of(lines_of(1)[-1], LAST_PLACE)
    expected = [number_of(line, place) for line in (high, low) for place in (1, 2, 3)]
    assert [row.number for row in await read(store, first, last, limit=6)] == expected
    assert [row.number for row in await read(store, first, last, limit=100)] == expected
    assert [row.number for row in await read(store, expected[1], expected[4], limit=2)] == expected[1:3]
    assert await read(store, number_of(low, 4), last) == []


async def test_reading_marks_what_it_gives(reopened: Reopened) -> None:
    """The marks of the lines are raised to the last copy that was read, never lowered, before it is given."""
    store = reopened()
    store.open()
    await give(store, *(copy(place) for place in range(1, 6)), copy(1, line=OTHER), mailboxes=[(1, "one"), (2, "two")])
    await read(store, *EVERYTHING, limit=3)
    store = reopened()
    assert store.open().lines == {LINE: Line(5, 3, 5), OTHER: Line(1, 0, 1)}
    await read(store, *EVERYTHING, limit=1)
    assert reopened().open().lines[LINE].marked == 3


async def test_a_mark_is_what_was_said_last(reopened: Reopened) -> None:
    """A mark may be lowered: 0 says that no copy is in anybody's hands."""
    store = reopened()
    store.open()
    await give(store, copy(1), copy(2), mailboxes=[(1, "one")], marks={LINE: 2})
    await give(store, marks={LINE: 0})
    assert reopened().open().lines[LINE] == Line(2, 0, 2)


async def test_trials_come_with_their_copies(reopened: Reopened) -> None:
    """What is known of a copy is read with it, the last thing said counts, and it ends with its copy."""
    store = reopened()
    store.open()
    (one, _), (two, _) = copy(1), copy(2)
    await give(store, copy(1), copy(2), copy(3), mailboxes=[(1, "one")])
    await give(store, trials=[(one, Trial(1)), (two, Trial(2, 3, redelivered=False, marked=True, due=4.5))])
    await give(store, trials=[(one, Trial(2))])
    store = reopened()
    store.open()
    assert [row.trial for row in await read(store)] == [Trial(2), Trial(2, 3, redelivered=False, marked=True, due=4.5), None]
    await give(store, drops=[one])
    assert [row.trial for row in await read(store, limit=1)] == [Trial(2, 3, redelivered=False, marked=True, due=4.5)]


async def test_a_copy_may_begin_and_end_in_one_batch(reopened: Reopened) -> None:
    """Drops come after puts and trials: what is in all three leaves its place behind and nothing else."""
    store = reopened()
    store.open()
    await give(store, copy(4), drops=[copy(4)[0]], trials=[(copy(4)[0], Trial(1))], mailboxes=[(1, "one")])
    assert await read(store) == []
    assert reopened().open().lines == {LINE: Line(placed=4)}


async def test_dropping_what_is_not_there_changes_nothing(reopened: Reopened) -> None:
    """A copy that has ended, or was quarantined, may be dropped once more; the count of copies stays true."""
    store = reopened()
    store.open()
    await give(store, copy(1), copy(2), mailboxes=[(1, "one")])
    assert await give(store, drops=[copy(1)[0], copy(9)[0]]) is None
    assert await give(store, drops=[copy(1)[0]]) is None
    assert reopened().open().lines == {LINE: Line(2, 0, 1)}


async def test_sweeps_end_what_is_there_by_then(reopened: Reopened) -> None:
    """A sweep ends the copies of its range that were put before it; those of its own batch and later ones stay."""
    store = reopened()
    store.open()
    batches = [
        batch_of(*(copy(place) for place in range(1, 6)), copy(1, line=OTHER), mailboxes=[(1, "one"), (2, "two")]),
        batch_of(copy(6), sweeps=[(copy(2)[0], copy(6)[0])]),
        batch_of(copy(7)),
    ]
    for batch, _ in batches:
        store.append(batch)
    for _, said in batches:
        assert await anyio.to_thread.run_sync(said.result, 10) is None
    assert [row.number for row in await read(store)] == [copy(place)[0] for place in (1, 6, 7)] + [copy(1, line=OTHER)[0]]
    assert reopened().open().lines == {LINE: Line(7, 7, 3), OTHER: Line(1, 1, 1)}


async def test_a_sweep_may_span_lines(reopened: Reopened) -> None:
    """All copies of a mailbox end with one range, of whatever priority, and no other's."""
    store = reopened()
    store.open()
    mine = [copy(place, line=line_of(1, priority)) for place in (1, 2) for priority in (0, 5, 255)]
    await give(store, *mine, copy(1, line=OTHER), mailboxes=[(1, "one"), (2, "two")], trials=[(mine[0][0], Trial())])
    await give(store, sweeps=[(number_of(lines_of(1)[0], 0), number_of(lines_of(1)[-1], LAST_PLACE))])
    assert [row.number for row in await read(store)] == [copy(1, line=OTHER)[0]]
    assert {line: known.copies for line, known in reopened().open().lines.items()} == {
        OTHER: 1,
        **{line_of(1, priority): 0 for priority in (0, 5, 255)},
    }


async def test_a_mailbox_goes_with_its_lines(reopened: Reopened) -> None:
    """Its copies, trials and lines go with its name; the others are not touched, and its number may be given again."""
    store = reopened()
    store.open()
    await give(store, copy(3), copy(1, line=OTHER), mailboxes=[(1, "one"), (2, "two")], trials=[(copy(3)[0], Trial())])
    await give(store, mailboxes=[(1, None)])
    store = reopened()
    assert store.open() == Contents({"two": 2}, {OTHER: Line(1, 0, 1)}, {}, 0, {})
    await give(store, copy(1), mailboxes=[(1, "three")])
    assert [(row.number, row.trial) for row in await read(store)] == [(copy(1)[0], None), (copy(1, line=OTHER)[0], None)]
    assert reopened().open().mailboxes == {"two": 2, "three": 1}


async def test_a_batch_is_written_whole_or_not_at_all(reopened: Reopened) -> None:
    """One that cannot be written says so, leaves nothing behind, and does not harm its neighbours."""
    store = reopened()
    store.open()
    await give(store, copy(1, body=b"the first"), mailboxes=[(1, "one")])
    batches = [
        batch_of(copy(2)),
        batch_of(copy(3), copy(1, body=b"a second one"), marks={LINE: 3}, kept=[("kind", "key", b"v")], timers=[(1, b"t")]),
        batch_of(copy(4)),
    ]
    for batch, _ in batches:
        store.append(batch)
    said = [await anyio.to_thread.run_sync(said.result, 10) for _, said in batches]
    assert [isinstance(error, StoreError) for error in said] == [False, True, False]
    contents = reopened().open()
    assert contents == Contents({"one": 1}, {LINE: Line(4, 0, 3)}, {}, 0, {})


async def test_batches_are_confirmed_once_in_order_and_never_within_append(reopened: Reopened) -> None:
    """`done` comes later, in the order in which the batches were given, reads among them."""
    store = reopened()
    store.open()
    told: list[str] = []
    within = False
    early: list[str] = []
    end: Future[None] = Future()

    def tell(name: str) -> None:
        told.append(name)
        if within:
            early.append(name)
        if name == "last":
            end.set_result(None)

    names = [str(place) for place in range(1, 200)]
    for place, name in enumerate(names, 1):
        batch, said = batch_of(copy(place), mailboxes=[(1, "one")] if place == 1 else [])
        said.add_done_callback(lambda _, name=name: tell(name))
        within = isinstance(store, MemoryStore)  # With a thread, what is told meanwhile may be of earlier ones.
        store.append(batch)
        if place % 50 == 0:
            store.read(*EVERYTHING, limit=1000, done=lambda rows: tell(f"read {len(rows) if isinstance(rows, list) else rows}"))
        within = False
    batch, said = batch_of()
    said.add_done_callback(lambda _: tell("last"))
    store.append(batch)
    await anyio.to_thread.run_sync(end.result, 10)
    expected = [entry for name in names for entry in ((name, f"read {name}") if int(name) % 50 == 0 else (name,))]
    assert told == [*expected, "last"]
    assert early == []


async def test_a_read_sees_what_came_before_it_and_nothing_later(reopened: Reopened) -> None:
    """Reads have their turn among the batches."""
    store = reopened()
    store.open()
    said: Future[list[Row] | StoreError] = Future()
    store.append(batch_of(copy(1), copy(2), mailboxes=[(1, "one")])[0])
    store.append(batch_of(drops=[copy(1)[0]])[0])
    store.read(*EVERYTHING, limit=10, done=said.set_result)
    store.append(batch_of(copy(3), drops=[copy(2)[0]])[0])
    assert await anyio.to_thread.run_sync(said.result, 10) == [Row(*copy(2))]


async def test_close_carries_out_what_was_given(reopened: Reopened) -> None:
    """Nothing that was appended before `close` is left open; closing again does nothing."""
    store = reopened()
    store.open()
    batches = [batch_of(copy(place), mailboxes=[(1, "one")] if place == 1 else []) for place in range(1, 50)]
    for batch, _ in batches:
        store.append(batch)
    store.close()
    store.close()
    assert [said.result(0) for _, said in batches] == [None] * 49
    assert reopened().open().lines == {LINE: Line(49, 0, 49)}


async def test_one_that_is_not_open_refuses(reopened: Reopened) -> None:
    """Before `open` and after `close` a call is an error that says so."""
    store = reopened()
    with pytest.raises(StoreError, match="open it first"):
        store.append(batch_of()[0])
    store.open()
    store.close()
    with pytest.raises(StoreError, match="open it first"):
        store.read(*EVERYTHING, limit=1, done=lambda _: None)


async def test_one_that_is_open_is_not_opened_again(reopened: Reopened) -> None:
    """A second mesh is refused, and the first goes on."""
    store = reopened()
    store.open()
    with pytest.raises(StoreError):
        store.open()
    if isinstance(store, SQLiteStore):
        with pytest.raises(StoreLocked):
            SQLiteStore(store.path).open()
    assert await give(store, copy(1), mailboxes=[(1, "one")]) is None


async def test_empty_batches_are_confirmed(reopened: Reopened) -> None:
    """A batch that changes nothing is done in its turn."""
    store = reopened()
    store.open()
    assert await give(store) is None


async def test_timers_keep_the_highest_id_ever_given(reopened: Reopened) -> None:
    """Also when the timer has gone, and in the same batch or group."""
    store = reopened()
    store.open()
    await give(store, timers=[(5, b"t"), (5, None)])
    await give(store, timers=[(4, b"u")])
    contents = reopened().open()
    assert (contents.timers, contents.last_timer) == ({4: b"u"}, 5)


async def test_what_is_told_may_give_more(reopened: Reopened) -> None:
    """A `done` may append: the next batch has its own turn."""
    store = reopened()
    store.open()
    later, said = batch_of(copy(2))
    first, _ = batch_of(copy(1), mailboxes=[(1, "one")])
    first.done = lambda error: store.append(later)
    store.append(first)
    assert await anyio.to_thread.run_sync(said.result, 10) is None
    assert len(await read(store)) == 2


async def test_a_done_that_fails_keeps_nobody_waiting(reopened: Reopened, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and the next ones are told."""
    store = reopened()
    store.open()
    first, _ = batch_of(copy(1), mailboxes=[(1, "one")])
    first.done = lambda error: {}["nothing"]
    store.append(first)
    assert await give(store, copy(2)) is None
    assert "has failed" in caplog.text
