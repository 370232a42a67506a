"""The dead letters of a store that no mesh has open."""

from pathlib import Path

import pytest

from flowmesh import Context, MailboxOptions, Mesh, Reject
from flowmesh._runtime.stored_letters import Letter, purge, replay
from flowmesh.stores import SQLiteStore

pytestmark = pytest.mark.anyio


@pytest.fixture
def store(tmp_path: Path) -> SQLiteStore:
    """A store that is closed."""
    return SQLiteStore(tmp_path / "shop.db", durability="process")


def shop(store: SQLiteStore, handled: list[tuple[int, int, bool, int]], *, priorities: bool = False) -> Mesh:
    """Return a mesh with an actor that rejects what has never died, and notes what has."""
    mesh = Mesh("shop", store=store)

    @mesh.actor(mailbox=MailboxOptions(priorities=priorities))
    async def charge(number: int, ctx: Context) -> None:
        if not ctx.message.deaths:
            raise Reject("not yet")
        handled.append((number, ctx.attempt, ctx.redelivered, ctx.message.deaths[0].count))

    return mesh


async def kill(store: SQLiteStore, numbers: list[int], *, priorities: bool = False) -> None:
    """Let messages die in the store: each number is its id and its priority too."""
    async with shop(store, [], priorities=priorities) as mesh:
        for number in numbers:
            await mesh.exchange("").publish(number, "charge", message_id=str(number), priority=number)
        await mesh.idle()
        assert len(mesh.dead_letters) == len(numbers)


async def handled_in(store: SQLiteStore, *, priorities: bool = False) -> tuple[list[tuple[int, int, bool, int]], int]:
    """Run the mesh until it is idle; return what it has handled, and how many dead letters are left."""
    handled: list[tuple[int, int, bool, int]] = []
    async with shop(store, handled, priorities=priorities) as mesh:
        await mesh.idle()
        return handled, len(mesh.dead_letters)


async def test_replayed_letters_have_fresh_attempts_and_their_history(store: SQLiteStore) -> None:
    """They enter the mailbox they died in, in the order in which they died, as if for the first time."""
    await kill(store, [1, 2, 3])
    outcome = replay(store, lambda letter: letter.id != "2", wall=1e9)
    assert (outcome.back, outcome.stayed) == (2, ())
    assert await handled_in(store) == ([(1, 1, False, 1), (3, 1, False, 1)], 1)


async def test_replayed_letters_keep_their_priority(store: SQLiteStore) -> None:
    """In a mailbox that goes by priorities the higher one is handled first."""
    await kill(store, [1, 3, 2], priorities=True)
    assert replay(store, lambda _: True, wall=1e9).back == 3
    handled, left = await handled_in(store, priorities=True)
    assert [number for number, *_ in handled] == [3, 2, 1]
    assert left == 0


async def test_priority_in_a_mailbox_that_knows_none(store: SQLiteStore) -> None:
    """It is kept on the message and changes nothing about the order."""
    await kill(store, [1, 3, 2])
    assert replay(store, lambda _: True, wall=1e9).back == 3
    handled, _ = await handled_in(store)
    assert [number for number, *_ in handled] == [1, 3, 2]


async def test_letter_of_a_mailbox_that_is_gone_stays(store: SQLiteStore) -> None:
    """Nothing is put where nobody would find it."""
    async with shop(store, []) as mesh:
        mailbox = mesh.mailbox("gone", MailboxOptions(max_deliveries=1))
        await mesh.exchange("").publish(7, "gone")
        await (await mailbox.get()).reject("broken")
        await mesh.idle()
        mailbox.delete()
    outcome = replay(store, lambda _: True, wall=1e9)
    assert outcome.back == 0
    assert [(letter.death.mailbox, letter.body) for letter in outcome.stayed] == [("gone", 7)]
    assert await handled_in(store) == ([], 1)


async def test_purged_letters_are_gone(store: SQLiteStore) -> None:
    """What is meant is forgotten, the others rest on, however many there are."""
    await kill(store, [number % 200 for number in range(1200)])
    met: list[Letter] = []

    def is_meant(letter: Letter) -> bool:
        met.append(letter)
        return letter.id != "7"

    assert purge(store, is_meant) == 1194
    assert len(met) == 1200
    assert await handled_in(store) == ([], 6)


async def test_a_store_without_dead_letters(store: SQLiteStore) -> None:
    """There is nothing to put back or to forget, and the store is closed again."""
    assert replay(store, lambda _: True, wall=1e9).back == 0
    assert purge(store, lambda _: True) == 0


async def test_looking_does_not_make_letters_suspect(store: SQLiteStore) -> None:
    """A letter that was read and left alone is as it was: nobody has had it in hand."""
    await kill(store, [1])
    assert purge(store, lambda _: False) == 0
    contents = store.open()
    store.close()
    assert all(line.marked == 0 for line in contents.lines.values())
