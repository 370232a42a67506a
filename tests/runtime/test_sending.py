"""Sending: what a publisher may give, what it gets, and that a message enters all of its mailboxes or none."""

import contextlib
import datetime
import logging
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from itertools import pairwise
from typing import Any

import anyio
import pytest

from flowmesh import Mesh
from flowmesh._runtime.context import Context
from flowmesh._runtime.ground import TURN_MESSAGES
from flowmesh.errors import (
    AccessRefused,
    InvalidBinding,
    MailboxFull,
    MeshStopped,
    NotFound,
    PreconditionFailed,
    Unroutable,
)
from flowmesh.policies import MailboxOptions
from flowmesh.testing import settled

pytestmark = pytest.mark.anyio


def _bodies(*mailboxes: Any) -> list[list[object]]:
    return [[message.body for message in mailbox.peek(5000)] for mailbox in mailboxes]


# Wrong declarations and wrong arguments


async def test_an_unknown_exchange_type_is_refused():
    """An exchange type that does not exist is refused where it is declared; the one that was meant is named."""
    mesh = Mesh("shop")
    with pytest.raises(PreconditionFailed, match=r"exchange 'orders' cannot be of type 'topik'.*topic"):
        mesh.exchange("orders", "topik")  # pyright: ignore[reportArgumentType]
    assert "orders" not in mesh.statistics().unroutable


async def test_what_belongs_to_another_mesh_is_refused():
    """Binding to, feeding from or scheduling into something of another mesh is an InvalidBinding naming both ends."""
    mesh, other = Mesh("shop"), Mesh("store")
    box, exchange = other.mailbox("box"), other.exchange("events", "fanout")
    stranger = other.actor(_handle, name="stranger")
    mesh.mailbox("box")  # of the same name, but not the same
    for destination in (box, exchange, stranger):
        with pytest.raises(InvalidBinding, match="mesh"):
            mesh.exchange("orders", "topic").bind(destination, "a")
        with pytest.raises(InvalidBinding, match=r"schedule 's' cannot fire at .*: it belongs to another mesh 'store'"):
            mesh.every(1, destination, name="s")
    with pytest.raises(InvalidBinding, match=r"actor 'work' cannot be fed from mailbox 'box': it belongs to another mesh"):
        mesh.actor(_handle, name="work", mailbox=box)
    with pytest.raises(InvalidBinding, match=r"actor 'work' cannot be bound to exchange 'events'"):
        mesh.actor(_handle, name="work", bind=exchange.on("a"))
    with pytest.raises(InvalidBinding, match="cannot be bound"):
        mesh.exchange("orders").bind("box")  # pyright: ignore[reportArgumentType]
    assert "work" not in mesh.statistics().actors


async def test_two_actors_of_one_name_are_refused():
    """A second actor of the same name is refused, and the first goes on as if nothing had been."""
    mesh, seen = Mesh("shop"), list[object]()

    @mesh.actor(name="work")
    async def first(body: Any) -> None:
        seen.append(body)

    with pytest.raises(PreconditionFailed, match=r"actor 'work' exists in mesh 'shop': give this one another name="):
        mesh.actor(_handle, name="work")
    async with mesh:
        await first.tell(1)
        await mesh.idle()
    assert seen == [1]


_NAIVE = datetime.datetime(2030, 1, 1)  # noqa: DTZ001 - naive on purpose
_AWARE = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)

_WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"delay": -1}, ValueError, r"delay must be zero or more seconds, not -1"),
    ({"delay": float("nan")}, ValueError, r"delay must be zero or more seconds, not nan"),
    ({"delay": float("inf")}, ValueError, r"delay must be zero or more seconds, not inf"),
    ({"delay": "1"}, ValueError, r"delay must be zero or more seconds, not '1'"),
    ({"delay": 10**400}, ValueError, r"delay must be zero or more seconds, not 1000"),
    ({"ttl": 10**400}, ValueError, r"ttl must be zero or more seconds, not 1000"),
    ({"delay": True}, ValueError, r"delay must be zero or more seconds, not True"),
    ({"ttl": -0.1}, ValueError, r"ttl must be zero or more seconds, not -0.1"),
    ({"at": _NAIVE}, ValueError, r"at must be a datetime with a time zone, not datetime.datetime\(2030"),
    ({"at": 5.0}, ValueError, r"at must be a datetime with a time zone, not 5.0"),
    ({"delay": 1, "at": _AWARE}, ValueError, r"delay and at were both given"),
    ({"priority": -1}, ValueError, r"priority must be a whole number from 0 to 255, not -1"),
    ({"priority": 256}, ValueError, r"priority must be a whole number from 0 to 255, not 256"),
    ({"priority": 1.5}, ValueError, r"priority must be a whole number from 0 to 255, not 1.5"),
    ({"priority": True}, ValueError, r"priority must be a whole number from 0 to 255, not True"),
    ({"headers": [("a", 1)]}, ValueError, r"headers must be a mapping with texts as names"),
    ({"headers": {1: "a"}}, ValueError, r"headers must be a mapping with texts as names"),
    ({"message_id": ""}, ValueError, r"message_id must be a text that is not empty"),
    ({"message_id": 7}, ValueError, r"message_id must be a text that is not empty, not 7"),
    ({"correlation_id": 7}, ValueError, r"correlation_id must be a text that is not empty, not 7"),
    ({"reply_to": 7}, ValueError, r"reply_to must be a mailbox or its name, not 7"),
    ({"prioritty": 7}, TypeError, r"unknown option 'prioritty' \(did you mean 'priority'\?\)"),
    ({"colour": 7}, TypeError, r"unknown option 'colour'$"),
]


@pytest.mark.parametrize("options, error, text", _WRONG)
async def test_a_wrong_option_is_refused_by_everything_that_sends(options: dict[str, Any], error: type[Exception], text: str):
    """A value out of its range is a ValueError that names it, an unknown option a TypeError that names the one meant."""
    mesh = Mesh("shop")
    exchange, work = mesh.exchange("events", "fanout"), mesh.actor(_handle, name="work")
    exchange.bind(work)
    async with mesh:
        with pytest.raises(error, match=text):
            await exchange.publish(1, **options)
        with pytest.raises(error, match=text):
            exchange.publish_nowait(1, **options)
        with pytest.raises(error, match=text):
            await exchange.publish_many([(1, ""), (2, "")], **options)
        with pytest.raises(error, match=text):
            await work.tell(1, **options)
        with pytest.raises(error, match=text):
            work.tell_nowait(1, **options)
        assert work.mailbox.statistics().entered == 0
        assert mesh.statistics().deferred == 0


async def test_a_key_of_more_than_255_bytes_is_refused():
    """A routing key has at most 255 bytes of UTF-8, in publishing, binding and scheduling; the error says how many it has."""
    mesh = Mesh("shop")
    exchange, box = mesh.exchange("events", "topic"), mesh.mailbox("box")
    exchange.bind(box, "#")
    fits, long, wide = "k" * 255, "k" * 256, "é" * 128
    async with mesh:
        assert (await exchange.publish(1, fits)).routed == 1
        for key in (long, wide):
            text = rf"key must be at most 255 bytes of UTF-8, not 256: '{key[0]}{{40}}'\.\.\."
            with pytest.raises(ValueError, match=text):
                await exchange.publish(1, key)
            with pytest.raises(ValueError, match=text):
                exchange.publish_nowait(1, key)
            with pytest.raises(ValueError, match=text):
                await exchange.publish_many([(1, "short"), (1, key)])
            with pytest.raises(ValueError, match=text):
                exchange.bind(box, key)
            with pytest.raises(ValueError, match=text):
                exchange.on(key)
            with pytest.raises(ValueError, match=text):
                mesh.every(1, exchange, key=key)
        with pytest.raises(ValueError, match="key must be a text, not 7"):
            await exchange.publish(1, 7)  # pyright: ignore[reportArgumentType]
        assert _bodies(box) == [[1]]


async def test_an_internal_and_a_deleted_exchange_take_nothing():
    """Publishing to an internal exchange is refused; a deleted one is not found."""
    mesh = Mesh("shop")
    inner, outer, box = mesh.exchange("inner", "fanout", internal=True), mesh.exchange("outer", "fanout"), mesh.mailbox("box")
    inner.bind(box)
    outer.bind(inner)
    async with mesh:
        assert (await outer.publish(1)).routed == 1
        with pytest.raises(AccessRefused, match=r"exchange 'inner' is internal"):
            await inner.publish(2)
        with pytest.raises(AccessRefused, match=r"exchange 'inner' is internal"):
            inner.publish_nowait(2)
        outer.delete()
        for send in (outer.publish(2), outer.publish_many([(2, "")])):
            with pytest.raises(NotFound, match=r"exchange 'outer' has been deleted: declare it again"):
                await send
        assert _bodies(box) == [[1]]


# Receipts, routing, unroutable


async def test_a_receipt_says_where_the_message_went():
    """`routed` and `dropped` count mailboxes; the id is the one given or a fresh one; nothing in memory is durable."""
    mesh = Mesh("shop")
    events = mesh.exchange("events", "fanout")
    for name in ("a", "b"):
        events.bind(mesh.mailbox(name))
    events.bind(mesh.mailbox("full", MailboxOptions(capacity=1, overflow="drop_newest")))
    async with mesh:
        first = await events.publish(1)
        second = await events.publish(2, message_id="mine")
        third = events.publish_nowait(3)
        assert [(receipt.routed, receipt.dropped) for receipt in (first, second, third)] == [(3, 0), (2, 1), (2, 1)]
        assert second.message_id == "mine"
        assert len({first.message_id, third.message_id}) == 2
        assert first.message_id == mesh.mailbox("a").peek()[0].id
        assert (first.durability, first.timer) == ("none", None)


async def test_options_reach_the_message():
    """Headers, priority, ttl, ids and the reply's address stand on the message as they were given."""
    mesh = Mesh("shop")
    box, answers = mesh.mailbox("box"), mesh.mailbox("answers")
    async with mesh:
        await mesh.exchange("").publish(
            1, "box", headers={"a": 1}, priority=7, ttl=60, message_id="m", correlation_id="c", reply_to=answers
        )
        message = box.peek()[0]
        assert (message.headers, message.priority, message.id, message.correlation_id) == ({"a": 1}, 7, "m", "c")
        assert (message.reply_to, message.expires, message.key, message.exchange) == ("answers", 60.0, "box", "")


async def test_unroutable_messages_are_counted_and_the_first_is_logged(caplog: pytest.LogCaptureFixture):
    """What nothing is bound for is counted per exchange; only the first is logged, with its key and id."""
    mesh = Mesh("shop")
    events = mesh.exchange("events", "topic")
    async with mesh:
        for number in range(3):
            assert (await events.publish(number, "a.b", message_id=f"m{number}")).routed == 0
        events.publish_nowait(3, "a.b")
        assert [receipt.routed for receipt in await events.publish_many([(4, "x"), (5, "y")])] == [0, 0]
    assert mesh.statistics().unroutable["events"] == events.unroutable == 6
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        "exchange 'events' routes key 'a.b' nowhere: message m0 went to no mailbox (further ones are only counted)"
    ]


async def test_a_mandatory_message_that_is_unroutable_is_refused():
    """`mandatory=True` raises Unroutable with the message in it, and with publish_many nothing enters; it is counted."""
    mesh = Mesh("shop")
    events, box = mesh.exchange("events", "direct"), mesh.mailbox("box")
    events.bind(box, "a")
    async with mesh:
        with pytest.raises(Unroutable, match=r"exchange 'events' routes key 'b' to no mailbox: bind one") as caught:
            await events.publish(1, "b", mandatory=True)
        assert caught.value.message is not None
        assert caught.value.message.body == 1
        with pytest.raises(Unroutable):
            events.publish_nowait(1, "b", mandatory=True)
        with pytest.raises(Unroutable):
            await events.publish_many([(1, "a"), (2, "b")], mandatory=True)
        assert (await events.publish(2, "a", mandatory=True)).routed == 1
        assert _bodies(box) == [[2]]
        assert events.unroutable == 3


async def test_telling_an_actor_whose_mailbox_is_gone_is_unroutable():
    """`tell` is always mandatory: when the mailbox has been deleted it says so by name."""
    mesh = Mesh("shop")
    work = mesh.actor(_handle, name="work")
    async with mesh:
        work.mailbox.delete()
        with pytest.raises(Unroutable, match=r"there is no mailbox 'work', or it has been deleted"):
            await work.tell(1)
        with pytest.raises(Unroutable, match=r"there is no mailbox 'work'"):
            work.tell_nowait(1)
        with pytest.raises(TypeError, match="tell is always mandatory"):
            await work.tell(1, mandatory=True)  # pyright: ignore[reportCallIssue]


async def test_a_message_of_a_turn_names_its_cause():
    """What a handler sends at once names the message of its turn as its cause, and inherits its correlation id."""
    mesh = Mesh("shop")
    box = mesh.mailbox("box")

    @mesh.actor
    async def work(number: int) -> None:
        await mesh.exchange("").publish(number, "box")
        mesh.exchange("").publish_nowait(number, "box")
        await mesh.exchange("").publish_many([(number, "box")], correlation_id="own")

    async with mesh:
        await work.tell(1, message_id="cause", correlation_id="c")
        await mesh.idle()
        await mesh.exchange("").publish(2, "box")
        messages = box.peek()
    assert [message.cause for message in messages] == ["cause", "cause", "cause", None]
    assert [message.correlation_id for message in messages] == ["c", "c", "own", None]


# Full mailboxes


@pytest.mark.parametrize(
    "overflow, kept, counts",
    [("drop_oldest", [2, 3], (1, 0)), ("drop_newest", [1, 2], (0, 1))],
)
async def test_a_full_mailbox_that_drops(overflow: Any, kept: list[int], counts: tuple[int, int]):
    """`drop_oldest` drops what would be handed out next, `drop_newest` the newcomer; counted, and told in the receipt."""
    mesh = Mesh("shop")
    box = mesh.mailbox("box", MailboxOptions(capacity=2, overflow=overflow))
    async with mesh:
        for number in (1, 2):
            await mesh.exchange("").publish(number, "box")
        receipt = await mesh.exchange("").publish(3, "box")
        assert (receipt.routed, receipt.dropped) == counts
        assert _bodies(box) == [kept]
        assert box.statistics().dropped == 1
        assert box.statistics().entered == 3


async def test_a_full_mailbox_that_rejects_refuses_the_whole_publish():
    """`reject` raises MailboxFull, which names the mailbox, its numbers and the mend, and gives the message back."""
    mesh = Mesh("shop")
    mesh.mailbox("box", MailboxOptions(capacity=1, overflow="reject"))
    async with mesh:
        await mesh.exchange("").publish(1, "box")
        with pytest.raises(MailboxFull) as caught:
            await mesh.exchange("").publish(2, "box")
    assert str(caught.value) == (
        "mailbox 'box' is full (1 of 1 ready, overflow='reject'): no mailbox took a copy; publish again later, give it more "
        "capacity, or handle its messages faster"
    )
    assert caught.value.mailbox == "box"
    assert caught.value.message is not None
    assert caught.value.message.body == 2


def _mixed(mesh: Mesh, *full: str) -> dict[str, Any]:
    """Four mailboxes, one of each policy, with room for one each, behind one fanout; those in `full` have theirs."""
    boxes: dict[str, Any] = {}
    for overflow in ("drop_oldest", "drop_newest", "wait", "reject"):
        boxes[overflow] = mesh.mailbox(overflow, MailboxOptions(capacity=1, overflow=overflow))
        mesh.exchange("all", "fanout").bind(boxes[overflow])
        if overflow in full:
            mesh.exchange("").publish_nowait(0, overflow)
    return boxes


async def test_a_fanout_over_mixed_policies_enters_all_or_none():
    """One publish to mailboxes of all policies: refused by one, it changes none, not even the one that would drop."""
    for full in ("reject", "wait"):
        mesh = Mesh("shop")
        async with mesh:
            boxes = _mixed(mesh, full, "drop_oldest", "drop_newest")
            before = _bodies(*boxes.values())
            with pytest.raises(MailboxFull, match=f"mailbox '{full}' is full"):
                mesh.exchange("all").publish_nowait(1)
            assert _bodies(*boxes.values()) == before
            assert mesh.statistics().mailboxes["drop_oldest"].dropped == 0
            assert mesh.statistics().mailboxes["drop_newest"].entered == 1


async def test_a_fanout_over_mixed_policies_that_drop():
    """With room where it matters a full drop_newest leaves its copy out, a full drop_oldest drops its first: 3 and 1."""
    mesh = Mesh("shop")
    async with mesh:
        boxes = _mixed(mesh, "drop_oldest", "drop_newest")
        receipt = await mesh.exchange("all").publish(1)
        assert (receipt.routed, receipt.dropped) == (3, 1)
        assert _bodies(*boxes.values()) == [[1], [0], [1], [1]]


async def test_a_fanout_over_mixed_policies_that_waits():
    """While it waits at one gate nothing has entered anywhere; then all copies enter in one step."""
    mesh = Mesh("shop")
    receipts: list[Any] = []
    async with mesh, anyio.create_task_group() as group:
        boxes = _mixed(mesh, "wait", "drop_oldest", "drop_newest")

        async def publish() -> None:
            receipts.append(await mesh.exchange("all").publish(1))

        group.start_soon(publish)
        await settled()
        assert _bodies(*boxes.values()) == [[0], [0], [0], []]
        boxes["wait"].purge()
        await settled()
        assert _bodies(*boxes.values()) == [[1], [0], [1], [1]]
    assert (receipts[0].routed, receipts[0].dropped) == (3, 1)


async def test_reject_is_asked_again_after_waiting():
    """A `reject` mailbox that filled up while the sender waited elsewhere refuses the publish then; nothing has entered."""
    mesh = Mesh("shop")
    errors: list[str] = []
    async with mesh, anyio.create_task_group() as group:
        boxes = _mixed(mesh, "wait")

        async def publish() -> None:
            with pytest.raises(MailboxFull) as caught:
                await mesh.exchange("all").publish(1)
            errors.append(caught.value.mailbox)

        group.start_soon(publish)
        await settled()
        mesh.exchange("").publish_nowait(9, "reject")
        boxes["wait"].purge()
        await settled()
        assert errors == ["reject"]
        assert _bodies(*boxes.values()) == [[], [], [], [9]]
        mesh.exchange("").publish_nowait(2, "wait")  # the gate that it had passed is open for others


async def test_reject_is_asked_before_waiting():
    """A publish that a full `reject` mailbox refuses does not wait in the line of another one first."""
    mesh = Mesh("shop")
    async with mesh:
        _mixed(mesh, "wait", "reject")
        with pytest.raises(MailboxFull, match="mailbox 'reject' is full"):
            await mesh.exchange("all").publish(1)


@pytest.mark.parametrize("overflow", ["wait", "reject", "drop_oldest", "drop_newest"])
async def test_publish_many_of_a_thousand_into_a_small_mailbox(overflow: Any):
    """One commit of a thousand: `wait` lets all in at once, `reject` none, the drop policies keep what fits."""
    mesh = Mesh("shop")
    box = mesh.mailbox("box", MailboxOptions(capacity=10, overflow=overflow))
    items = [(number, "box") for number in range(1000)]
    async with mesh:
        if overflow == "reject":
            with pytest.raises(MailboxFull):
                await mesh.exchange("").publish_many(items)
            assert _bodies(box) == [[]]
            assert len(await mesh.exchange("").publish_many(items[:10])) == 10
            return
        receipts = await mesh.exchange("").publish_many(items)
        numbers = box.statistics()
        assert numbers.entered == 1000
        assert numbers.ready + numbers.dropped == 1000
        assert sum(receipt.routed for receipt in receipts) + sum(receipt.dropped for receipt in receipts) == 1000
        assert len({receipt.message_id for receipt in receipts}) == 1000
        expected = {"wait": range(1000), "drop_oldest": range(990, 1000), "drop_newest": range(10)}
        assert _bodies(box) == [list(expected[overflow])]
        assert numbers.over == (990 if overflow == "wait" else 0)


async def test_publish_many_waits_at_a_full_gate_once():
    """Behind a full `wait` mailbox a batch waits once, for all; the next sender waits until the batch has been handled."""
    mesh, log = Mesh("shop"), list[str]()
    box = mesh.mailbox("box", MailboxOptions(capacity=2))
    default = mesh.exchange("")
    async with mesh, anyio.create_task_group() as group:
        await default.publish_many([("old", "box")] * 2)

        async def batch() -> None:
            await default.publish_many([("batch", "box")] * 5)
            log.append("batch")

        async def single() -> None:
            await default.publish("single", "box")
            log.append("single")

        group.start_soon(batch)
        await settled()
        group.start_soon(single)
        await settled()
        assert log == []
        for _ in range(1):
            await box.get_nowait().ack()
        await settled()
        assert log == ["batch"]
        assert box.statistics().ready == 6
        for _ in range(4):
            await box.get_nowait().ack()
        await settled()
        assert log == ["batch"]
        await box.get_nowait().ack()
        await settled()
        assert log == ["batch", "single"]


async def test_publish_many_of_nothing_is_nothing():
    """An empty batch gives no receipts."""
    mesh = Mesh("shop")
    async with mesh:
        assert await mesh.exchange("").publish_many([]) == []


async def test_publish_many_waits_once_counts_once():
    """Unroutable members of a batch that had to wait are counted once, however often it looked."""
    mesh = Mesh("shop")
    events, box = mesh.exchange("events", "direct"), mesh.mailbox("box", MailboxOptions(capacity=1))
    events.bind(box, "a")
    async with mesh, anyio.create_task_group() as group:
        await events.publish(0, "a")

        async def batch() -> None:
            await events.publish_many([(1, "a"), (2, "nowhere")])

        group.start_soon(batch)
        await settled()
        assert events.unroutable == 0
        box.purge()
        await settled()
        assert events.unroutable == 1
        group.cancel_scope.cancel()


async def test_publish_many_deferred_gives_a_timer_for_each():
    """With `delay=` each member of the batch gets a timer of its own, in order."""
    mesh = Mesh("shop")
    box = mesh.mailbox("box")
    async with mesh:
        receipts = await mesh.exchange("").publish_many([(number, "box") for number in range(3)], delay=5)
        assert len({receipt.timer for receipt in receipts}) == 3
        assert [receipt.routed for receipt in receipts] == [0, 0, 0]
        await anyio.sleep(6)
        assert _bodies(box) == [[0, 1, 2]]


# What the mesh itself moves


@pytest.mark.parametrize("overflow", ["wait", "reject"])
async def test_what_the_mesh_moves_is_never_refused(overflow: Any):
    """Outputs, replies, due messages, dead letters and retries enter a full `wait` or `reject` mailbox; `over` shows it."""
    mesh = Mesh("shop")
    full = mesh.mailbox("full", MailboxOptions(capacity=1, overflow=overflow))
    graves = mesh.exchange("graves", "fanout")
    graves.bind(full)
    default = mesh.exchange("")

    @mesh.actor(mailbox=MailboxOptions(dead_letter=graves))
    async def work(what: str, ctx: Context) -> str:
        if what == "output":
            ctx.publish(default, what, key="full")
        elif what == "dead":
            raise OSError(what)
        return what

    async with mesh:
        await default.publish("first", "full")
        await default.publish("due", "full", delay=1)
        await anyio.sleep(2)
        for what in ("reply", "output", "dead"):
            before = full.statistics().ready
            # One at a time: an actor that overfilled a `wait` mailbox is held.
            work.cell.held_by = set()
            mesh._engine.scheduler.open(work.cell)
            await work.tell(what, reply_to=full if what == "reply" else None)
            await settled()
            assert full.statistics().ready == before + 1, what
        assert _bodies(full) == [["first", "due", "reply", "output", "dead"]]
        assert full.statistics().over == 4
        delivery = full.get_nowait()
        await delivery.nack()
        await (taken := full.get_nowait()).nack(delay=1)
        assert taken.message.body == "first"
        await anyio.sleep(2)
        assert full.statistics().ready == 5


# The way through


async def test_a_send_that_breathed_into_a_stopped_mesh_is_refused():
    """A sender whose turn was over looks again after its pause: a mesh that stopped meanwhile takes nothing."""
    mesh = Mesh("shop")
    box = mesh.mailbox("box")
    for send in ("publish", "publish with options", "publish_many"):
        outcomes: list[str] = []

        async def publish(send: str = send, outcomes: list[str] = outcomes) -> None:
            exchange = mesh.exchange("")
            try:
                if send == "publish":
                    await exchange.publish(1, "box")
                elif send == "publish_many":
                    await exchange.publish_many([(1, "box")])
                else:
                    await exchange.publish(1, "box", priority=1)
            except MeshStopped:
                outcomes.append("stopped")

        async with anyio.create_task_group() as group, mesh:
            await settled()
            mesh._engine.ground.budget = 0
            group.start_soon(publish)
            await anyio.lowlevel.checkpoint()  # it gets to its pause, but not over it
            mesh.stop()
        assert outcomes == ["stopped"], send
        assert box.statistics().entered == 0


async def test_a_sender_that_never_suspends_yields_every_64_sends():
    """Whatever it sends, a sender lets the others run at least every 64 messages."""
    mesh = Mesh("shop", grace=0)
    exchange = mesh.exchange("events", "fanout")
    exchange.bind(mesh.mailbox("box", MailboxOptions(capacity=1_000_000)))
    work = mesh.actor(_handle, name="work", mailbox=MailboxOptions(capacity=1_000_000))
    work.pause()

    async def deferred() -> None:
        await exchange.publish(1, delay=1000)

    async def with_options() -> None:
        await exchange.publish(1, headers={"a": 1})

    sends = {
        "publish": lambda: exchange.publish(1),
        "publish with options": with_options,
        "deferred": deferred,
        "tell": lambda: work.tell(1),
        "publish_many": lambda: exchange.publish_many([(1, "")]),
        "publish_many deferred": lambda: exchange.publish_many([(1, "")], delay=1000),
    }
    for name, send in sends.items():
        sent = 0
        pauses = [0]

        async def flood(send: Callable[[], Awaitable[object]] = send) -> None:
            nonlocal sent
            for _ in range(1000):
                await send()
                sent += 1

        async with mesh:
            await _stepped(flood(), lambda: pauses.append(sent))  # noqa: B023 - called before the next round
        pauses.append(sent)
        assert sent == 1000, name
        assert max(later - earlier for earlier, later in pairwise(pauses)) <= TURN_MESSAGES, name


@types.coroutine
def _stepped(coroutine: Coroutine[Any, Any, None], on_pause: Callable[[], object]) -> Generator[Any, Any, None]:
    """Run a coroutine that is never cancelled, and tell of each of its suspensions."""
    sent: Any = None
    with contextlib.suppress(StopIteration):
        while True:
            awaited = coroutine.send(sent)
            on_pause()
            sent = yield awaited


async def test_nowait_sends_count_for_the_turn():
    """Synchronous sends cannot yield, but the next awaited one does."""
    mesh = Mesh("shop")
    mesh.mailbox("box")
    pauses: list[str] = []

    async def flood() -> None:
        for _ in range(TURN_MESSAGES + 1):
            mesh.exchange("").publish_nowait(1, "box")
        assert pauses == []
        await mesh.exchange("").publish(1, "box")

    async with mesh:
        await settled()
        await _stepped(flood(), lambda: pauses.append("paused"))
    assert pauses == ["paused"]


async def test_a_flooded_actor_does_not_starve_the_others():
    """Among twenty ready actors one with ten thousand messages leaves each of the others its turn."""
    mesh, order = Mesh("shop"), list[int]()

    def declare(number: int) -> Any:
        async def work(body: int) -> None:
            order.append(number)

        return mesh.actor(work, name=f"actor-{number}")

    actors = [declare(number) for number in range(20)]
    async with mesh:
        await mesh.exchange("").publish_many([(1, "actor-0")] * 10_000)
        for actor in actors[1:]:
            await mesh.exchange("").publish_many([(1, actor.name)] * 3)
        await mesh.idle()
    assert len(order) == 10_000 + 19 * 3
    last_of_others = max(index for index, number in enumerate(order) if number != 0)
    flooded_before = order[:last_of_others].count(0)
    assert flooded_before <= 20 * TURN_MESSAGES


async def _handle(body: Any) -> None:
    pass
