"""Dead letters: who rests where and why, how they are found, and how they come back. None is lost without a count."""

from typing import Literal

import anyio
import anyio.lowlevel
import pytest

from flowmesh import Mesh
from flowmesh._runtime.mailbox import Mailbox
from flowmesh.errors import MailboxFull, MeshStopped, NotRunning, Reject
from flowmesh.message import Message
from flowmesh.policies import MailboxOptions, Overflow, Retry
from flowmesh.testing import VirtualClock, advance, cancel_sweep, settled
from flowmesh.testing.sweep import Swept

pytestmark = pytest.mark.anyio


async def put(mesh: Mesh, name: str, *bodies: object) -> None:
    """Publish bodies to a mailbox by its name."""
    for body in bodies:
        await mesh.exchange("").publish(body, name, mandatory=True)


async def bury(mesh: Mesh, name: str, *bodies: object) -> None:
    """Put bodies into a mailbox and reject them there: they become dead letters."""
    mailbox = mesh.mailbox(name)
    for body in bodies:
        await put(mesh, name, body)
        await (await mailbox.get()).reject(f"no {body}")


def bodies(messages: list[Message]) -> list[object]:
    """The bodies of messages."""
    return [message.body for message in messages]


def adds_up(mailbox: Mailbox) -> bool:
    """Whether every copy that entered is accounted for."""
    numbers = mailbox.statistics()
    ended = numbers.acked + numbers.dead + numbers.expired + numbers.dropped + numbers.withdrawn + numbers.purged
    return numbers.entered == numbers.ready + numbers.leased + numbers.delayed + ended


# Reasons


async def test_reasons_of_an_actor():
    """What a handler rejects, fails for good or cannot take rests in mesh.dead_letters with that reason and its text."""
    mesh = Mesh("shop")
    orders = mesh.exchange("orders", "fanout")

    @mesh.actor(retry=Retry(2, initial=0.1, jitter="none"), bind=orders.on())
    async def work(body: int) -> None:
        if body == 1:
            raise Reject("not today")
        raise ValueError("broken")

    async with mesh:
        for body in (1, 2, "three"):
            await orders.publish(body)
        await mesh.idle()
        letters = {letter.body: letter.deaths[0] for letter in mesh.dead_letters.list()}
        assert {body: death.reason for body, death in letters.items()} == {1: "rejected", 2: "failed", "three": "malformed"}
        assert letters[1].detail == "not today"
        assert letters[2].detail == "ValueError: broken"
        assert {(death.mailbox, death.exchange, death.count) for death in letters.values()} == {("work", "orders", 1)}
        assert work.mailbox.statistics().dead == 3
        assert adds_up(work.mailbox)


async def test_delivery_limit_is_a_dead_letter():
    """A copy handed back too often rests as `delivery_limit`."""
    mesh = Mesh("shop")
    work = mesh.mailbox("work", MailboxOptions(max_deliveries=2))
    async with mesh:
        await put(mesh, "work", "a")
        for _ in range(2):
            await (await work.get()).nack()
        (letter,) = mesh.dead_letters.list(mailbox="work", reason="delivery_limit")
        assert letter.deaths[0].detail == "handed out 2 times without a verdict"
        assert adds_up(work)


async def test_expired_and_maxlen_are_only_counted():
    """Without a dead-letter exchange, what expires or is dropped rests nowhere, and is counted."""
    mesh = Mesh("shop")
    short = mesh.mailbox("short", MailboxOptions(ttl=1))
    small = mesh.mailbox("small", MailboxOptions(capacity=1, overflow="drop_oldest"))
    async with mesh:
        await put(mesh, "short", "a")
        await put(mesh, "small", "a", "b")
        await advance(2)
        assert mesh.dead_letters.list() == []
        assert (short.statistics().expired, short.statistics().ready) == (1, 0)
        assert (small.statistics().dropped, small.statistics().ready) == (1, 1)


async def test_every_reason_goes_to_the_dead_letter_exchange():
    """With dead_letter= set all six reasons are published there, with the history; nothing rests in mesh.dead_letters."""
    mesh = Mesh("shop")
    late = mesh.exchange("late", "topic")
    grave = mesh.mailbox("grave")
    late.bind(grave, "#")
    options = MailboxOptions(dead_letter=late, dead_letter_key="dead")
    manual = mesh.mailbox("manual", MailboxOptions(dead_letter=late, max_deliveries=1))
    short = mesh.mailbox("short", MailboxOptions(ttl=1, dead_letter=late))
    oldest = mesh.mailbox("oldest", MailboxOptions(capacity=1, overflow="drop_oldest", dead_letter=late))
    newest = mesh.mailbox("newest", MailboxOptions(capacity=1, overflow="drop_newest", dead_letter=late))

    @mesh.actor(mailbox=options)
    async def work(body: int) -> None:
        raise Reject("no") if body == 1 else ValueError("broken")

    async with mesh:
        await put(mesh, "work", 1, 2, "three")
        await put(mesh, "short", "old")
        await put(mesh, "oldest", "first", "second")
        await put(mesh, "newest", "first", "second")
        await put(mesh, "manual", "again")
        await (await manual.get()).nack()
        await advance(2)
        found = {(letter.body, letter.deaths[0].reason, letter.key) for letter in grave.peek(100)}
        assert found == {
            (1, "rejected", "dead"),
            (2, "failed", "dead"),
            ("three", "malformed", "dead"),
            ("old", "expired", "short"),
            ("first", "maxlen", "oldest"),
            ("second", "maxlen", "newest"),
            ("again", "delivery_limit", "manual"),
        }
        assert {letter.exchange for letter in grave.peek(100)} == {"late"}
        assert mesh.dead_letters.list() == []
        for mailbox in (work.mailbox, manual, short, oldest, newest):
            assert adds_up(mailbox)
            assert mailbox.statistics().dead == (3 if mailbox.name == "work" else 1)


@pytest.mark.parametrize("case", ["missing", "deleted", "routes nowhere"])
async def test_no_way_through_the_dead_letter_exchange(case: Literal["missing", "deleted", "routes nowhere"]):
    """A letter whose dead-letter exchange is not there, or leads nowhere, rests in mesh.dead_letters; expired ones too."""
    mesh = Mesh("shop")
    work = mesh.mailbox("work", MailboxOptions(dead_letter="late", ttl=10))
    if case != "missing":
        late = mesh.exchange("late", "fanout")
        if case == "deleted":
            late.bind(mesh.mailbox("grave"))
            late.delete()
    async with mesh:
        await put(mesh, "work", "rejected", "expired")
        await (await work.get()).reject("no")
        await advance(11)
        assert [(letter.body, letter.deaths[0].reason, letter.key) for letter in mesh.dead_letters.list()] == [
            ("rejected", "rejected", "work"),
            ("expired", "expired", "work"),
        ]
        assert work.statistics().dead == 2


async def test_dead_letter_exchange_is_looked_up_when_used():
    """An exchange declared later than the mailbox that names it takes the letters from then on."""
    mesh = Mesh("shop")
    work = mesh.mailbox("work", MailboxOptions(dead_letter="late"))
    async with mesh:
        await bury(mesh, "work", "before")
        grave = mesh.mailbox("grave")
        mesh.exchange("late", "fanout").bind(grave)
        await bury(mesh, "work", "after")
        assert bodies(mesh.dead_letters.list()) == ["before"]
        assert bodies(grave.peek()) == ["after"]
        assert work.statistics().dead == 2


async def test_retry_after_a_round_of_mailboxes():
    """Reject, wait in a mailbox with a ttl, come back: the classic retry ring goes on, with a history that counts."""
    mesh = Mesh("shop")
    mesh.exchange("wait", "fanout").bind(mesh.mailbox("waiting", MailboxOptions(ttl=5, dead_letter="again")))
    work = mesh.mailbox("work", MailboxOptions(dead_letter="wait"))
    mesh.exchange("again", "fanout").bind(work)
    async with mesh:
        await put(mesh, "work", "a")
        for round_number in range(3):
            delivery = await work.get()
            history = [(death.mailbox, death.reason, death.count) for death in delivery.message.deaths]
            assert history == (
                [("waiting", "expired", round_number), ("work", "rejected", round_number)] if round_number else []
            )
            await delivery.reject("not yet")
        assert mesh.dead_letters.list() == []


async def test_cycle_without_a_handler_is_cut(caplog: pytest.LogCaptureFixture):
    """A ring that only time turns is cut at the mailbox it would enter again: the letter rests, and the log names it."""
    mesh = Mesh("shop")
    work = mesh.mailbox("work", MailboxOptions(ttl=1, dead_letter="ring"))
    mesh.exchange("ring", "fanout").bind(work)
    async with mesh:
        await put(mesh, "work", "a")
        await advance(5)
        (letter,) = mesh.dead_letters.list()
        assert (letter.deaths[0].reason, letter.deaths[0].count) == ("expired", 1)
        assert work.statistics().ready == 0
        assert f"dead-letter cycle cut: message {letter.id} is not put into 'work' again" in caplog.messages


# Finding


async def test_list_filters():
    """Letters are listed oldest first, by mailbox, by reason, and at most `limit` of them."""
    mesh = Mesh("shop")
    limited = mesh.mailbox("limited", MailboxOptions(max_deliveries=1))
    async with mesh:
        await bury(mesh, "work", "a", "b")
        await put(mesh, "limited", "c", "d")
        await (await limited.get()).nack()
        await (await limited.get()).reject()
        letters = mesh.dead_letters
        assert len(letters) == letters.statistics().ready == 4
        assert bodies(letters.list()) == ["a", "b", "c", "d"]
        assert bodies(letters.list(mailbox="limited")) == ["c", "d"]
        assert bodies(letters.list(reason="rejected")) == ["a", "b", "d"]
        assert bodies(letters.list(mailbox="limited", reason="delivery_limit")) == ["c"]
        assert bodies(letters.list(reason="rejected", limit=2)) == ["a", "b"]
        assert letters.list(mailbox="nowhere") == []


async def test_history_says_where_when_and_why():
    """A letter tells the mailbox, reason, text, wall time, exchange and key of its death; its own exchange and key stay."""
    mesh = Mesh("shop", clock=VirtualClock(wall=1_000.0))
    work = mesh.mailbox("work")
    orders = mesh.exchange("orders", "topic")
    orders.bind(work, "order.#")
    async with mesh:
        await orders.publish("a", "order.eu", headers={"x": 1}, correlation_id="c")
        await advance(50)
        await (await work.get()).reject("no stock")
        (letter,) = mesh.dead_letters.list()
        (death,) = letter.deaths
        assert (death.mailbox, death.reason, death.detail, death.count) == ("work", "rejected", "no stock", 1)
        assert (death.exchange, death.keys) == ("orders", ("order.eu",))
        assert death.time == pytest.approx(1_050.0, abs=0.1)
        assert (letter.exchange, letter.key, dict(letter.headers), letter.correlation_id) == (
            "orders",
            "order.eu",
            {"x": 1},
            "c",
        )


async def test_letters_outlive_the_mesh():
    """Letters can be listed and purged while the mesh does not run, and replayed when it runs again."""
    mesh = Mesh("shop")
    with pytest.raises(NotRunning):
        await mesh.dead_letters.replay()
    async with mesh:
        await bury(mesh, "work", "a", "b")
    letter = mesh.dead_letters.list()[0]
    with pytest.raises(MeshStopped):
        await mesh.dead_letters.replay()
    assert len(mesh.dead_letters) == 2
    async with mesh:
        assert await mesh.dead_letters.replay(letter.id) == 1
        assert bodies(mesh.mailbox("work").peek()) == ["a"]
    assert mesh.dead_letters.purge() == 1
    assert mesh.dead_letters.list() == []


# Replay


async def test_replay_gives_fresh_attempts_and_keeps_the_history():
    """A replayed letter enters the mailbox it died in, behind the others, as if new, and is counted there once more."""
    mesh = Mesh("shop")
    seen: list[tuple[int, bool, int]] = []
    heal = False

    @mesh.actor(retry=Retry(2, initial=0, jitter="none"))
    async def work(body: str) -> None:
        if not heal:
            raise OSError("down")

    manual = mesh.mailbox("manual", MailboxOptions(max_deliveries=2))
    async with mesh:
        await work.tell("a")
        await put(mesh, "manual", "b")
        for _ in range(2):
            delivery = await manual.get()
            await delivery.nack()
        await mesh.idle()
        assert len(mesh.dead_letters) == 2
        await put(mesh, "manual", "other")
        heal = True
        assert await mesh.dead_letters.replay() == 2
        await mesh.idle()
        assert len(mesh.dead_letters) == 0
        assert (work.mailbox.statistics().entered, work.mailbox.statistics().acked) == (2, 1)
        assert bodies(manual.peek()) == ["other", "b"]
        await (await manual.get()).ack()
        for handout in range(2):
            delivery = await manual.get()
            seen.append((delivery.attempt, delivery.redelivered, delivery.message.deaths[0].count))
            await delivery.nack()
            assert len(mesh.dead_letters) == handout
        assert seen == [(1, False, 1), (1, True, 1)]
        (letter,) = mesh.dead_letters.list()
        assert letter.deaths[0].count == 2
        assert mesh.dead_letters.statistics().acked == 2


async def test_replay_of_some():
    """Letters are chosen by id, by mailbox, and by number, the oldest first; the others stay."""
    mesh = Mesh("shop")
    async with mesh:
        await bury(mesh, "one", "a", "b", "c")
        await bury(mesh, "two", "d")
        ids = {letter.body: letter.id for letter in mesh.dead_letters.list()}
        assert await mesh.dead_letters.replay(ids["b"], ids["d"], mailbox="one") == 1
        assert bodies(mesh.mailbox("one").peek()) == ["b"]
        assert await mesh.dead_letters.replay(mailbox="one", limit=1) == 1
        assert bodies(mesh.mailbox("one").peek()) == ["b", "a"]
        assert await mesh.dead_letters.replay(limit=0) == 0
        assert await mesh.dead_letters.replay("no such id") == 0
        assert bodies(mesh.dead_letters.list()) == ["c", "d"]


async def test_replay_of_one_id_that_died_twice():
    """A message that died in two mailboxes is two letters, each for its own mailbox."""
    mesh = Mesh("shop")
    both = mesh.exchange("both", "fanout")
    one, two = mesh.mailbox("one"), mesh.mailbox("two")
    both.bind(one)
    both.bind(two)
    async with mesh:
        receipt = await both.publish("a")
        for mailbox in (one, two):
            await (await mailbox.get()).reject()
        assert await mesh.dead_letters.replay(receipt.message_id, mailbox="two") == 1
        assert (one.statistics().ready, two.statistics().ready) == (0, 1)
        assert await mesh.dead_letters.replay(receipt.message_id) == 1
        assert (one.statistics().ready, two.statistics().ready) == (1, 1)


async def test_replay_of_a_mailbox_that_is_gone(caplog: pytest.LogCaptureFixture):
    """A letter whose mailbox is gone stays and is named in the log; the others are put back; declared again, it takes it."""
    mesh = Mesh("shop")
    async with mesh:
        await bury(mesh, "gone", "a")
        await bury(mesh, "here", "b")
        mesh.mailbox("gone").delete()
        (letter,) = mesh.dead_letters.list(mailbox="gone")
        assert await mesh.dead_letters.replay() == 1
        assert f"dead letter {letter.id} stays: its mailbox 'gone' is gone" in caplog.messages
        assert bodies(mesh.dead_letters.list()) == ["a"]
        again = mesh.mailbox("gone")
        assert await mesh.dead_letters.replay() == 1
        assert bodies(again.peek()) == ["a"]


async def full(mesh: Mesh, overflow: Overflow) -> Mailbox:
    """A mailbox of capacity 2 with one copy ready, and three letters that died there."""
    mailbox = mesh.mailbox("work", MailboxOptions(capacity=2, overflow=overflow))
    await bury(mesh, "work", "a", "b", "c")
    await put(mesh, "work", "ready")
    return mailbox


async def test_replay_waits_for_room():
    """A full `wait` mailbox lets letters in one by one, in line with other senders, as room comes."""
    mesh = Mesh("shop")
    async with mesh:
        work = await full(mesh, "wait")
        replayed: list[int] = []

        async def replay() -> None:
            replayed.append(await mesh.dead_letters.replay())

        async with anyio.create_task_group() as group:
            group.start_soon(replay)
            await settled()
            assert (bodies(work.peek()), bodies(mesh.dead_letters.list())) == (["ready", "a"], ["b", "c"])
            group.start_soon(put, mesh, "work", "sent")
            await settled()
            for expected in (["a", "b"], ["b", "sent"], ["sent", "c"]):
                await (await work.get()).ack()
                await settled()
                assert bodies(work.peek()) == expected
        assert replayed == [3]
        assert work.statistics().over == 0
        assert adds_up(work)


async def test_replay_into_a_full_rejecting_mailbox():
    """A full `reject` mailbox ends the replay with MailboxFull: those before it are put back, the others stay."""
    mesh = Mesh("shop")
    async with mesh:
        work = await full(mesh, "reject")
        with pytest.raises(MailboxFull) as caught:
            await mesh.dead_letters.replay()
        assert str(caught.value) == ("mailbox 'work' is full; dead letters put back: 1; the others stay: replay again later")
        assert caught.value.mailbox == "work"
        assert caught.value.message is not None
        assert caught.value.message.body == "b"
        assert bodies(work.peek()) == ["ready", "a"]
        assert bodies(mesh.dead_letters.list()) == ["b", "c"]


async def test_replay_into_a_full_drop_newest_mailbox(caplog: pytest.LogCaptureFixture):
    """A full `drop_newest` mailbox leaves newcomers out: the letters stay where they are instead of being dropped."""
    mesh = Mesh("shop")
    async with mesh:
        work = await full(mesh, "drop_newest")
        assert await mesh.dead_letters.replay() == 1
        assert bodies(work.peek()) == ["ready", "a"]
        assert bodies(mesh.dead_letters.list()) == ["b", "c"]
        assert work.statistics().dropped == 0
        for letter in mesh.dead_letters.list():
            assert f"dead letter {letter.id} stays: its mailbox 'work' is full" in caplog.messages


async def test_replay_into_a_full_drop_oldest_mailbox():
    """A full `drop_oldest` mailbox makes room for letters by its own rule, and counts what it drops."""
    mesh = Mesh("shop")
    async with mesh:
        work = await full(mesh, "drop_oldest")
        assert await mesh.dead_letters.replay() == 3
        assert bodies(work.peek()) == ["b", "c"]
        assert (work.statistics().dropped, len(mesh.dead_letters)) == (2, 0)
        assert adds_up(work)


async def test_two_replays_at_once():
    """Each letter is put back once, by whichever replay comes first, and counted by that one."""
    mesh = Mesh("shop")
    async with mesh:
        work = await full(mesh, "wait")
        replayed: list[int] = []

        async def replay() -> None:
            replayed.append(await mesh.dead_letters.replay())

        async def drain() -> None:
            for _ in range(4):
                await (await work.get()).ack()
                await anyio.sleep(1)

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(replay)
            await settled()
            group.start_soon(drain)
        assert sum(replayed) == 3
        assert work.statistics().entered == 7
        assert (work.statistics().acked, work.statistics().dead, work.statistics().ready) == (4, 3, 0)
        assert len(mesh.dead_letters) == 0
        assert adds_up(work)


async def test_letter_that_goes_while_its_replay_waits():
    """A letter purged, or a mailbox deleted, while a replay waits for room: nothing is put back, nothing is counted twice."""
    mesh = Mesh("shop")
    async with mesh:
        work = await full(mesh, "wait")
        replayed: list[int] = []

        async def replay() -> None:
            replayed.append(await mesh.dead_letters.replay())

        async with anyio.create_task_group() as group:
            group.start_soon(replay)
            await settled()
            assert mesh.dead_letters.purge(mailbox="work") == 2
            await bury_waiting(work)
        assert replayed == [1]
        assert adds_up(work)
        await put(mesh, "work", "filler")
        async with anyio.create_task_group() as group:
            group.start_soon(replay)
            await settled()
            work.delete()
        assert replayed == [1, 0]
        assert bodies(mesh.dead_letters.list()) == ["ready"]


async def bury_waiting(work: Mailbox) -> None:
    """Reject the first ready copy: room for one."""
    await (await work.get()).reject()


async def test_cancelled_replay_loses_no_letter():
    """Cancelled at any suspension, each letter is either still a dead letter or back in its mailbox; nobody else waits on."""
    mesh = Mesh("shop")
    work = mesh.mailbox("work", MailboxOptions(capacity=1))
    async with mesh, anyio.create_task_group() as group:
        taken: list[object] = []

        async def replay() -> int:
            await bury(mesh, "work", "a", "b", "c")
            group.start_soon(drain)
            return await mesh.dead_letters.replay()

        async def drain() -> None:
            for _ in range(2):
                for _ in range(5):
                    await anyio.lowlevel.checkpoint()
                if work.statistics().ready:
                    delivery = work.get_nowait()
                    await delivery.ack()
                    taken.append(delivery.message.body)

        async def check(swept: Swept[int]) -> None:
            await settled()
            ready, letters = bodies(work.peek()), bodies(mesh.dead_letters.list())
            assert sorted([*taken, *ready, *letters], key=str) == ["a", "b", "c"]
            if swept.value is not None:
                assert swept.value == 3 - len(letters)
            assert adds_up(work)
            work.purge()
            mesh.dead_letters.purge()
            taken.clear()
            with anyio.fail_after(1):  # Nobody is left in the line.
                await put(mesh, "work", "next")
            work.purge()

        assert await cancel_sweep(replay, check) >= 2


async def test_replay_of_many_lets_others_run():
    """A long replay yields to the loop, and can be cancelled there; what it did so far stays done."""
    mesh = Mesh("shop")
    async with mesh:
        await bury(mesh, "work", *range(300))
        with anyio.move_on_after(0) as scope:
            await mesh.dead_letters.replay()
        assert scope.cancelled_caught
        ready = mesh.mailbox("work").statistics().ready
        assert ready <= 64
        assert ready + len(mesh.dead_letters) == 300
        assert await mesh.dead_letters.replay() == 300 - ready
        assert bodies(mesh.mailbox("work").peek(1000)) == list(range(300))


# Purge and bound


async def test_purge_filters():
    """Purging forgets letters by mailbox and by reason, says how many, and counts them as purged."""
    mesh = Mesh("shop")
    limited = mesh.mailbox("limited", MailboxOptions(max_deliveries=1))
    async with mesh:
        await bury(mesh, "work", "a", "b")
        await put(mesh, "limited", "c", "d")
        await (await limited.get()).nack()
        await (await limited.get()).reject()
        assert mesh.dead_letters.purge(mailbox="limited", reason="rejected") == 1
        assert bodies(mesh.dead_letters.list()) == ["a", "b", "c"]
        assert mesh.dead_letters.purge(mailbox="work") == 2
        assert mesh.dead_letters.purge(reason="failed") == 0
        assert mesh.dead_letters.purge() == 1
        assert (len(mesh.dead_letters), mesh.dead_letters.statistics().purged) == (0, 4)


async def test_bound_of_ten_thousand(caplog: pytest.LogCaptureFixture):
    """mesh.dead_letters holds 10,000: the next one drops the oldest, which the log names and the statistics count."""
    mesh = Mesh("shop")
    work = mesh.mailbox("work")
    async with mesh:
        for number in range(10_000):
            await put(mesh, "work", number)
            await (await work.get()).reject()
        oldest = mesh.dead_letters.list(limit=2)
        assert bodies(oldest) == [0, 1]
        assert not caplog.messages
        await bury(mesh, "work", "new", "newer")
        assert len(mesh.dead_letters) == 10_000
        assert bodies(mesh.dead_letters.list(limit=1)) == [2]
        assert caplog.messages == [f"mesh.dead_letters is full: dropped the oldest, message {letter.id}" for letter in oldest]
        numbers = mesh.dead_letters.statistics()
        assert (numbers.entered, numbers.dropped, numbers.ready) == (10_002, 2, 10_000)
        assert mesh.statistics().dead_letters == numbers


async def test_default_place_has_no_name_of_its_own():
    """A mailbox that somebody names `mesh.dead_letters` is one like any other; letters do not go there."""
    mesh = Mesh("shop")
    namesake = mesh.mailbox("mesh.dead_letters")
    async with mesh:
        await bury(mesh, "work", "a")
        assert namesake.statistics().entered == 0
        assert bodies(mesh.dead_letters.list()) == ["a"]


async def test_wrong_questions_are_named():
    """A reason that does not exist, and an id that is a message: named, instead of an empty answer."""
    mesh = Mesh("shop")
    async with mesh:
        with pytest.raises(ValueError, match=r"reason must be one of rejected, failed, .*, not 'faild'"):
            mesh.dead_letters.list(reason="faild")  # pyright: ignore[reportArgumentType]
        with pytest.raises(ValueError, match="not 'faild'"):
            mesh.dead_letters.purge(reason="faild")  # pyright: ignore[reportArgumentType]
        with pytest.raises(TypeError, match=r"replay takes the ids of messages, such as message.id, not \['x'\]"):
            await mesh.dead_letters.replay(["x"])  # pyright: ignore[reportArgumentType]
