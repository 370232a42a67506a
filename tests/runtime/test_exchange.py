"""The public Exchange: what it binds, where its messages go, what its receipts say; and that both of its paths agree."""

import logging
from collections.abc import Mapping
from typing import Any, get_args

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmesh import Mesh
from flowmesh._runtime.exchange import Exchange
from flowmesh._runtime.mailbox import Mailbox
from flowmesh.errors import (
    AccessRefused,
    FlowmeshError,
    InvalidBinding,
    MailboxFull,
    MeshError,
    MeshStopped,
    NotFound,
    NotRunning,
    PreconditionFailed,
    Unroutable,
)
from flowmesh.policies import MailboxOptions, Overflow
from flowmesh.testing import BACKENDS, Swept, VirtualClock, cancel_sweep, run, settled
from flowmesh.testing.virtual import Backend

pytestmark = pytest.mark.anyio

CAREFUL: Mapping[str, Any] = {"priority": 0}
"""An option that changes nothing, and keeps `publish` off its fast path."""


def bodies(mailbox: Mailbox) -> list[object]:
    """What is ready in a mailbox, in the order of hand-out."""
    return [message.body for message in mailbox.peek(1000)]


async def routes(exchange: Exchange, key: str, *mailboxes: Mailbox, **options: Any) -> list[str]:
    """Publish once, say which mailboxes took a copy, and empty them; the receipt must say the same."""
    receipt = await exchange.publish("x", key, **options)
    taken = [mailbox.name for mailbox in mailboxes if mailbox.purge()]
    assert (receipt.routed, receipt.dropped) == (len(taken), 0)
    return taken


# Types


@pytest.mark.parametrize("options", [{}, CAREFUL], ids=["fast", "careful"])
async def test_direct(options: dict[str, Any]):
    """A direct exchange routes by the exact key; several destinations may share one, one may have several."""
    mesh = Mesh("shop")
    orders, one, two = mesh.exchange("orders"), mesh.mailbox("one"), mesh.mailbox("two")
    orders.bind(one, "a")
    orders.bind(two, "a")
    orders.bind(two, "b")
    async with mesh:
        for _ in range(2):  # the second time the route is cached
            assert await routes(orders, "a", one, two, **options) == ["one", "two"]
            assert await routes(orders, "b", one, two, **options) == ["two"]
            assert await routes(orders, "", one, two, **options) == []
            assert await routes(orders, "*", one, two, **options) == []


@pytest.mark.parametrize("options", [{}, CAREFUL], ids=["fast", "careful"])
async def test_fanout(options: dict[str, Any]):
    """A fanout exchange routes to all, whatever the key, and gives a destination bound twice one copy."""
    mesh = Mesh("shop")
    orders, one, two = mesh.exchange("orders", "fanout"), mesh.mailbox("one"), mesh.mailbox("two")
    orders.bind(one, "a")
    orders.bind(one, "b")
    orders.bind(two)
    async with mesh:
        for key in ("", "a", "any.thing"):
            assert await routes(orders, key, one, two, **options) == ["one", "two"]


@pytest.mark.parametrize("options", [{}, CAREFUL], ids=["fast", "careful"])
async def test_topic(options: dict[str, Any]):
    """A topic exchange routes by pattern, and gives a destination that matches twice one copy."""
    mesh = Mesh("shop")
    orders, one, two = mesh.exchange("orders", "topic"), mesh.mailbox("one"), mesh.mailbox("two")
    orders.bind(one, "order.*.placed")
    orders.bind(one, "order.#")
    orders.bind(two, "*.eu.*")
    async with mesh:
        for _ in range(2):
            assert await routes(orders, "order.eu.placed", one, two, **options) == ["one", "two"]
            assert await routes(orders, "order", one, two, **options) == ["one"]
            assert await routes(orders, "offer.eu.", one, two, **options) == ["two"]
            assert await routes(orders, "offer", one, two, **options) == []


async def test_headers():
    """A headers exchange looks at the headers of each message, never at the key, and never at another message's."""
    mesh = Mesh("shop")
    docs, both, either = mesh.exchange("docs", "headers"), mesh.mailbox("both"), mesh.mailbox("either")
    docs.bind(both, arguments={"x-match": "all", "kind": "pdf", "pages": 2})
    docs.bind(either, arguments={"x-match": "any", "kind": "pdf", "pages": 2})
    async with mesh:
        for _ in range(2):
            assert await routes(docs, "k", both, either, headers={"kind": "pdf", "pages": 2}) == ["both", "either"]
            assert await routes(docs, "k", both, either, headers={"kind": "pdf"}) == ["either"]
            assert await routes(docs, "k", both, either, headers={"kind": "pdf", "pages": "2"}) == ["either"]
            assert await routes(docs, "k", both, either, headers={"kind": "txt"}) == []
            assert await routes(docs, "k", both, either) == []


async def test_headers_behind_another_exchange():
    """A route that leads through a headers exchange is found anew for each message."""
    mesh = Mesh("shop")
    orders, docs, pdf, plain = (
        mesh.exchange("orders"),
        mesh.exchange("docs", "headers"),
        mesh.mailbox("pdf"),
        mesh.mailbox("plain"),
    )
    orders.bind(plain, "k")
    orders.bind(docs, "k")
    docs.bind(pdf, arguments={"kind": "pdf"})
    async with mesh:
        for _ in range(2):
            assert await routes(orders, "k", pdf, plain) == ["plain"]
            assert await routes(orders, "k", pdf, plain, headers={"kind": "pdf"}) == ["pdf", "plain"]


async def test_default_exchange():
    """The exchange "" routes to the mailbox named by the key; it is one object, and cannot be bound, unbound or deleted."""
    mesh = Mesh("shop")
    default, work = mesh.exchange(""), mesh.mailbox("work")
    orders = mesh.exchange("orders")
    async with mesh:
        assert await routes(default, "work", work) == ["work"]
        assert await routes(default, "nobody", work) == []
        for refused in (
            lambda: default.bind(work, "k"),
            lambda: default.unbind(work, "k"),
            lambda: orders.bind(default, "k"),
            default.delete,
        ):
            with pytest.raises(AccessRefused, match="the default exchange cannot be"):
                refused()
        assert (default.name, default.type, default.unroutable) == ("", "direct", 1)


# Bindings


async def test_exchange_to_exchange():
    """Messages flow through bound exchanges, each at most once per publish, so rings are legal; a mailbox gets one copy."""
    mesh = Mesh("shop")
    first, second = mesh.exchange("first", "topic"), mesh.exchange("second", "fanout")
    one, two = mesh.mailbox("one"), mesh.mailbox("two")
    first.bind(second, "order.#")
    second.bind(first)
    second.bind(one)
    second.bind(second)
    first.bind(one, "#")
    first.bind(two, "other")
    async with mesh:
        for options in ({}, CAREFUL):
            assert await routes(first, "order.new", one, two, **options) == ["one"]
            assert await routes(first, "other", one, two, **options) == ["one", "two"]
            assert await routes(second, "other", one, two, **options) == ["one", "two"]


async def test_alternate():
    """What an exchange routes nowhere goes to its alternate, by object or name, looked up when it is needed."""
    mesh = Mesh("shop")
    orders = mesh.exchange("orders", alternate="rest")
    one, rest_box = mesh.mailbox("one"), mesh.mailbox("rest box")
    orders.bind(one, "known")
    async with mesh:
        assert await routes(orders, "unknown", one, rest_box) == []
        rest = mesh.exchange("rest", "fanout")
        rest.bind(rest_box)
        assert await routes(orders, "unknown", one, rest_box) == ["rest box"]
        assert await routes(orders, "known", one, rest_box) == ["one"]
        assert mesh.exchange("orders", alternate=rest).core is orders.core
        rest.delete()
        assert await routes(orders, "unknown", one, rest_box) == []


async def test_internal():
    """An internal exchange takes messages from exchanges only; publishing to it is refused by name, in every form."""
    mesh = Mesh("shop")
    inner, outer, box = mesh.exchange("inner", "fanout", internal=True), mesh.exchange("outer"), mesh.mailbox("box")
    inner.bind(box)
    outer.bind(inner, "k")
    text = "exchange 'inner' is internal: publish to an exchange that is bound to it"
    async with mesh:
        for _ in range(2):  # also when the route is known
            for options in ({}, CAREFUL):
                with pytest.raises(AccessRefused, match=text):
                    await inner.publish("x", "k", **options)
            with pytest.raises(AccessRefused, match=text):
                inner.publish_nowait("x", "k")
            with pytest.raises(AccessRefused, match=text):
                await inner.publish_many([("x", "k")])
            assert await routes(outer, "k", box) == ["box"]


async def test_binding_twice_and_unbinding():
    """A binding is there once; unbinding takes it away, and what is not there is no error. Arguments are part of it."""
    mesh = Mesh("shop")
    orders, box = mesh.exchange("orders"), mesh.mailbox("box")
    orders.bind(box, "k")
    orders.bind(box, "k")
    orders.bind(box, "k", arguments={"x": 1})
    async with mesh:
        assert await routes(orders, "k", box) == ["box"]
        orders.unbind(box, "k")
        assert await routes(orders, "k", box) == ["box"]
        orders.unbind(box, "k", arguments={"x": True})  # bool is not int
        assert await routes(orders, "k", box) == ["box"]
        orders.unbind(box, "k", arguments={"x": 1})
        assert await routes(orders, "k", box) == []
        orders.unbind(box, "k")


async def test_actor_as_destination():
    """An actor is bound through its mailbox, by bind() and by bind=, and unbound in the same way."""
    mesh = Mesh("shop")
    orders, seen = mesh.exchange("orders", "topic"), list[str]()

    @mesh.actor(bind=[orders.on("order.*"), orders.on("offer.*")])
    async def work(body: str) -> None:
        seen.append(body)

    async with mesh:
        orders.bind(work, "other")
        for key in ("order.a", "offer.a", "other"):
            await orders.publish(key, key)
        orders.unbind(work, "order.*")
        await orders.publish("unbound", "order.a")
        await mesh.idle()
        assert seen == ["order.a", "offer.a", "other"]


@pytest.mark.parametrize(
    "match, headers, routed",
    [
        ("all", {"a": 1, "b": 2}, True),
        ("all", {"a": 1}, False),
        ("any", {"a": 1}, True),
        ("any", {"c": 1}, False),
        ("all", {"a": 1, "b": 2, "x-tenant": 9}, True),
        ("all-with-x", {"a": 1, "b": 2, "x-tenant": 9}, False),
        ("all-with-x", {"a": 1, "b": 2, "x-tenant": 3}, True),
        ("any-with-x", {"x-tenant": 3}, True),
        ("any", {"x-tenant": 3}, False),
    ],
)
async def test_on_with_headers(match: Any, headers: dict[str, Any], routed: bool):
    """on(headers=, match=) is bind(arguments={"x-match": match, ...})."""
    mesh = Mesh("shop")
    docs, seen = mesh.exchange("docs", "headers"), list[str]()

    @mesh.actor(bind=docs.on(headers={"a": 1, "b": 2, "x-tenant": 3}, match=match))
    async def work(body: str) -> None:
        seen.append(body)

    async with mesh:
        receipt = await docs.publish("doc", headers=headers)
        await mesh.idle()
        assert (receipt.routed, seen) == ((1, ["doc"]) if routed else (0, []))
        docs.unbind(work, arguments={"b": 2, "a": 1, "x-match": match, "x-tenant": 3})
        assert (await docs.publish("doc", headers=headers)).routed == 0


async def test_on_needs_headers_for_a_match():
    """match= without headers= is refused where it is written."""
    docs = Mesh("shop").exchange("docs", "headers")
    with pytest.raises(InvalidBinding, match="match= says how headers= are matched: give headers= too"):
        docs.on(match="any")


async def test_wrong_bindings():
    """What cannot be bound is refused by name, with the mend; nothing has changed."""
    mesh, other = Mesh("shop"), Mesh("other")
    orders, box, docs = mesh.exchange("orders"), mesh.mailbox("box"), mesh.exchange("docs", "headers")
    with pytest.raises(
        InvalidBinding, match="mailbox 'foreign' belongs to another mesh: bind 'orders' to 'foreign' within one"
    ):
        orders.bind(other.mailbox("foreign"), "k")
    with pytest.raises(InvalidBinding, match="'box' cannot be bound: bind a Mailbox, an Exchange or an Actor of this mesh"):
        orders.bind("box", "k")  # pyright: ignore[reportArgumentType] - as a user might
    with pytest.raises(InvalidBinding, match="x-match"):
        docs.bind(box, arguments={"x-match": "some", "a": 1})
    with pytest.raises(ValueError, match="key must be at most 255 bytes of UTF-8, not 256"):
        orders.bind(box, "é" * 128)
    with pytest.raises(ValueError, match="key must be a text, not 7"):
        orders.bind(box, 7)  # pyright: ignore[reportArgumentType] - as a user might
    box.delete()
    with pytest.raises(NotFound, match="mailbox 'box' has been deleted: declare it again to bind it"):
        orders.bind(box, "k")
    orders.unbind(box, "k")
    assert mesh.topology().bindings == ()


# Deleting


async def test_delete():
    """Deleting takes all bindings from and to it; then publishing raises NotFound, and deleting again does nothing."""
    mesh = Mesh("shop")
    outer, inner, box = mesh.exchange("outer"), mesh.exchange("inner", "fanout"), mesh.mailbox("box")
    outer.bind(inner, "k")
    inner.bind(box)
    async with mesh:
        assert await routes(outer, "k", box) == ["box"]
        with pytest.raises(PreconditionFailed, match="exchange 'inner' is in use"):
            inner.delete(if_unused=True)
        assert await routes(outer, "k", box) == ["box"]
        inner.delete()
        inner.delete(if_unused=True)
        assert await routes(outer, "k", box) == []
        for options in ({}, CAREFUL):
            with pytest.raises(NotFound, match="exchange 'inner' has been deleted: declare it again"):
                await inner.publish("x", "k", **options)
        with pytest.raises(NotFound):
            inner.publish_nowait("x")
        again = mesh.exchange("inner", "topic")
        assert await routes(again, "k", box) == []
        with pytest.raises(NotFound):
            await inner.publish("x", "k")


async def test_redeclaration():
    """Declared equally, or by its name alone, an exchange is the same one; differently, the error names what differs."""
    mesh = Mesh("shop")
    orders = mesh.exchange("orders", "topic", alternate="rest")
    assert mesh.exchange("orders").core is orders.core
    assert mesh.exchange("orders", "topic", alternate="rest").core is orders.core
    with pytest.raises(PreconditionFailed, match=r"exchange 'orders'.*type"):
        mesh.exchange("orders", "fanout", alternate="rest")
    with pytest.raises(PreconditionFailed, match=r"exchange 'orders'.*alternate"):
        mesh.exchange("orders", "topic", alternate="other")
    with pytest.raises(PreconditionFailed, match=r"cannot be of type 'topical'.*topic"):
        mesh.exchange("new", "topical")  # pyright: ignore[reportArgumentType] - as a user might
    assert repr(orders) == "<Exchange 'orders' topic>"


# Publishing


async def test_receipts():
    """A receipt counts the mailboxes that took a copy and those that left it out, and has the id that receivers see."""
    mesh = Mesh("shop")
    orders = mesh.exchange("orders", "fanout")
    one, two = mesh.mailbox("one"), mesh.mailbox("two", MailboxOptions(capacity=1, overflow="drop_newest"))
    orders.bind(one)
    orders.bind(two)
    async with mesh:
        first = await orders.publish("a", "k")
        second = await orders.publish("b", "k")
        third = await orders.publish("c", "k", message_id="mine")
        assert [(receipt.routed, receipt.dropped) for receipt in (first, second, third)] == [(2, 0), (1, 1), (1, 1)]
        assert [message.id for message in one.peek()] == [receipt.message_id for receipt in (first, second, third)]
        assert (third.message_id, third.durability, third.timer) == ("mine", "none", None)
        assert bodies(two) == ["a"]


async def test_unroutable_is_counted_and_logged_once(caplog: pytest.LogCaptureFixture):
    """What goes to no mailbox is counted per exchange; the first is logged, the further ones are not."""
    mesh = Mesh("shop")
    orders, other = mesh.exchange("orders"), mesh.exchange("other")
    async with mesh:
        first = await orders.publish("a", "k")
        await orders.publish("b", "k", **CAREFUL)
        orders.publish_nowait("c", "k")
        assert (await orders.publish_many([("d", "k")]))[0].routed == 0
        await other.publish("a", "k")
        warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert len(warned) == 2
        assert warned[0] == (
            f"exchange 'orders' routes key 'k' nowhere: message {first.message_id} went to no mailbox "
            "(further ones are only counted)"
        )
        assert (orders.unroutable, other.unroutable) == (4, 1)
        assert mesh.statistics().unroutable["orders"] == 4


async def test_mandatory():
    """A mandatory message that goes nowhere raises Unroutable, which gives it back; one that is routed does not."""
    mesh = Mesh("shop")
    orders, box = mesh.exchange("orders"), mesh.mailbox("box")
    orders.bind(box, "known")
    text = (
        "exchange 'orders' routes key 'k' to no mailbox: bind one, give the exchange an alternate, or publish without "
        "mandatory=True"
    )
    async with mesh:
        with pytest.raises(Unroutable) as caught:
            await orders.publish("a", "k", mandatory=True)
        assert str(caught.value) == text
        assert caught.value.message is not None
        assert (caught.value.message.body, caught.value.message.key) == ("a", "k")
        with pytest.raises(Unroutable):
            orders.publish_nowait("a", "k", mandatory=True)
        with pytest.raises(Unroutable):
            await orders.publish_many([("b", "known"), ("a", "k")], mandatory=True)
        assert bodies(box) == []  # all or none
        assert (await orders.publish("a", "known", mandatory=True)).routed == 1
        assert orders.unroutable == 3


async def test_publish_many_takes_pairs():
    """What is no pair of body and key is named, and nothing has been published."""
    mesh = Mesh()
    orders = mesh.exchange("orders", "fanout")
    orders.bind(mesh.mailbox("work"))
    async with mesh:
        with pytest.raises(TypeError, match=r"publish_many takes pairs \(body, key\), not 'alone'"):
            await orders.publish_many([("a", "k"), "alone"])  # pyright: ignore[reportArgumentType]
        assert mesh.mailbox("work").statistics().entered == 0


async def test_publish_many_is_one_commit():
    """All messages enter, in order, or none: a `reject` mailbox without room for all of them refuses all."""
    mesh = Mesh("shop")
    orders, box = mesh.exchange("orders", "fanout"), mesh.mailbox("box")
    small = mesh.mailbox("small", MailboxOptions(capacity=3, overflow="reject"))
    orders.bind(box)
    orders.bind(small)
    async with mesh:
        receipts = await orders.publish_many((body, "k") for body in "ab")
        assert [receipt.routed for receipt in receipts] == [2, 2]
        assert [message.id for message in box.peek()] == [receipt.message_id for receipt in receipts]
        with pytest.raises(MailboxFull, match="mailbox 'small' is full"):
            await orders.publish_many([("c", "k"), ("d", "k")])
        assert bodies(box) == bodies(small) == ["a", "b"]
        assert await orders.publish_many([]) == []


async def test_wrong_arguments():
    """A key or an option that cannot be is refused by name, on both paths, and nothing enters."""
    mesh = Mesh("shop")
    orders, box = mesh.exchange("orders", "fanout"), mesh.mailbox("box")
    orders.bind(box)
    async with mesh:
        for key in ("k" * 256, "é" * 128):
            with pytest.raises(ValueError, match="key must be at most 255 bytes of UTF-8, not 256"):
                await orders.publish("x", key)
        with pytest.raises(ValueError, match="key must be a text, not 7"):
            await orders.publish("x", 7)  # pyright: ignore[reportArgumentType] - as a user might
        with pytest.raises(ValueError, match="delay must be zero or more seconds, not -1"):
            await orders.publish("x", "k", delay=-1)
        with pytest.raises(TypeError, match=r"unknown option 'prioritty' \(did you mean 'priority'\?\)"):
            await orders.publish("x", "k", prioritty=1)  # pyright: ignore[reportCallIssue] - as a user might
        assert bodies(box) == []
        assert (await orders.publish("x", "k" * 255)).routed == 1


async def test_outside_its_mesh_s_life():
    """Publishing needs a running mesh: before NotRunning, after MeshStopped, from a foreign thread MeshError."""
    mesh = Mesh("shop")
    orders, box = mesh.exchange("orders", "fanout"), mesh.mailbox("box")
    orders.bind(box)
    with pytest.raises(NotRunning, match="mesh 'shop' has not been started"):
        await orders.publish("x")
    async with mesh:
        await orders.publish("x")
        with pytest.raises(MeshError, match="runs in another thread"):
            await anyio.to_thread.run_sync(orders.publish_nowait, "x")
    for options in ({}, CAREFUL):
        with pytest.raises(MeshStopped, match="mesh 'shop' has stopped: it takes no more messages"):
            await orders.publish("x", **options)
    assert bodies(box) == ["x"]


async def test_messages_of_both_paths_are_alike():
    """The fast path makes the same message as the careful one: exchange, key, time, cause; outputs inherit correlation."""
    mesh = Mesh("shop", clock=VirtualClock(wall=5_000.0))
    orders, box = mesh.exchange("orders", "fanout"), mesh.mailbox("box")
    orders.bind(box)

    @mesh.actor
    async def relay(body: str) -> None:
        await orders.publish("fast", "k")
        await orders.publish("careful", "k", **CAREFUL)

    async with mesh:
        await orders.publish("warm", "k")
        box.purge()
        for correlation_id in (None, "c"):
            # Only a plain parent, told without any option, leaves its turn's sends on the fast path.
            receipt = await (relay.tell("go", correlation_id=correlation_id) if correlation_id else relay.tell("go"))
            await mesh.idle()
            fast, careful = box.peek()
            assert (fast.body, careful.body) == ("fast", "careful")
            for field in ("exchange", "key", "timestamp", "cause", "correlation_id", "priority", "deaths", "type"):
                assert getattr(fast, field) == getattr(careful, field)
            assert (fast.cause, fast.correlation_id) == (receipt.message_id, correlation_id)
            assert fast.timestamp == pytest.approx(5_000.0)
            box.purge()


async def test_cancelled_publish_enters_everywhere_or_nowhere():
    """Cancelled at any suspension, a publish that waits for room has put in all of its copies or none."""
    mesh = Mesh("shop")
    orders, wide = mesh.exchange("orders", "fanout"), mesh.mailbox("wide")
    narrow = [mesh.mailbox(name, MailboxOptions(capacity=1)) for name in ("first", "second")]
    for mailbox in (wide, *narrow):
        orders.bind(mailbox)
    async with mesh, anyio.create_task_group() as group:

        async def publish() -> None:
            await orders.publish("filler")
            wide.purge()
            group.start_soon(free)
            await orders.publish("x")

        async def free() -> None:
            for mailbox in narrow:
                for _ in range(5):
                    await anyio.lowlevel.checkpoint()
                mailbox.purge()

        async def check(swept: Swept[None]) -> None:
            await settled()
            expected = [] if swept.cancelled else ["x"]
            assert [bodies(mailbox) for mailbox in (wide, *narrow)] == [expected] * 3
            for mailbox in (wide, *narrow):
                mailbox.purge()

        assert await cancel_sweep(publish, check) >= 2


# Both paths, one result

_KEYS = ["", "a", "b", "a.b", "a.b.c", "b.b"]
_PATTERNS = ["", "a", "b", "a.*", "#", "*.b", "a.#.c"]
_boxes = st.lists(
    st.builds(
        MailboxOptions,
        capacity=st.integers(1, 4),
        overflow=st.sampled_from(get_args(Overflow)),
        ttl=st.none() | st.just(1000.0),
        priorities=st.booleans(),
        dead_letter=st.none() | st.sampled_from(["x0", "x1"]),
    ),
    min_size=1,
    max_size=4,
)
_exchanges = st.lists(
    st.tuples(
        st.sampled_from(["direct", "fanout", "topic", "headers", "hash"]), st.none() | st.sampled_from(["x0", "x1", "x2"])
    ),
    min_size=1,
    max_size=3,
)
_bindings = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 6), st.sampled_from(_PATTERNS)), max_size=12)
_steps = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(0, 2), st.sampled_from(_KEYS)),
        st.tuples(st.just("publish"), st.integers(0, 2), st.sampled_from(_KEYS)),
        st.tuples(st.just("take"), st.integers(0, 3), st.sampled_from(["ack", "nack", "reject", "keep"])),
        st.tuples(st.just("purge"), st.integers(0, 3), st.just("")),
    ),
    max_size=30,
)


async def _play(
    boxes: list[MailboxOptions],
    exchanges: list[tuple[Any, str | None]],
    bindings: list[tuple[int, int, str]],
    steps: list[tuple[str, int, str]],
    options: Mapping[str, Any],
) -> list[object]:
    """Carry the steps out with these publish options, and return everything that could be seen."""
    mesh = Mesh("shop", grace=0, clock=VirtualClock())
    names = [mesh.exchange(f"x{number}", type, alternate=other) for number, (type, other) in enumerate(exchanges)]
    mailboxes = [mesh.mailbox(f"m{number}", each) for number, each in enumerate(boxes)]
    ends: list[Any] = [*names, *mailboxes]
    for source, end, pattern in bindings:
        exchange = names[source % len(names)]
        exchange.bind(ends[end % len(ends)], str(len(pattern) + 1) if exchange.type == "hash" else pattern)
    seen: list[object] = []
    kept: list[object] = []
    async with mesh:
        for serial, (verb, place, word) in enumerate(steps):
            mailbox = mailboxes[place % len(mailboxes)]
            outcome: object = None
            with anyio.move_on_after(0.5):  # Where a `wait` mailbox is full the publish waits, and is given up.
                try:
                    if verb == "publish":
                        receipt = await names[place % len(names)].publish(serial, word, **options)
                        outcome = receipt.routed, receipt.dropped, receipt.durability, receipt.timer
                    elif verb == "purge":
                        outcome = mailbox.purge()
                    else:
                        delivery = mailbox.get_nowait()
                        outcome = delivery.message.body, delivery.redelivered
                        if word == "keep":
                            kept.append(delivery)
                        else:
                            await getattr(delivery, word)()
                except (FlowmeshError, anyio.WouldBlock) as error:
                    outcome = type(error).__name__, str(error) if isinstance(error, MailboxFull) else ""
            seen.append(outcome)
            for each in mailboxes:
                numbers = each.statistics()
                seen.append(
                    (
                        each.name,
                        [(message.body, message.exchange, message.key) for message in each.peek()],
                        numbers.entered,
                        numbers.dropped,
                        numbers.dead,
                        numbers.ready,
                        numbers.over,
                    )
                )
        seen += [exchange.unroutable for exchange in names]
        seen.append([(letter.body, letter.key, letter.exchange) for letter in mesh.dead_letters.list()])
        for delivery in kept:
            await delivery.ack()  # pyright: ignore[reportAttributeAccessIssue] - a Delivery
    return seen


@pytest.mark.parametrize("backend", BACKENDS)
@given(boxes=_boxes, exchanges=_exchanges, bindings=_bindings, steps=_steps)
def test_fast_and_careful_path_agree(
    backend: Backend,
    boxes: list[MailboxOptions],
    exchanges: list[tuple[Any, str | None]],
    bindings: list[tuple[int, int, str]],
    steps: list[tuple[str, int, str]],
):
    """Whatever is published and taken, in whatever topology: the fast path leaves what the careful one leaves."""
    fast = run(_play, boxes, exchanges, bindings, steps, {}, backend=backend)
    careful = run(_play, boxes, exchanges, bindings, steps, CAREFUL, backend=backend)
    assert fast == careful
