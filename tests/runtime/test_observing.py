"""Observers: each point once and in order, whatever happens to a copy; and that one that fails disturbs nobody."""

import contextlib
import logging
from collections import Counter
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from flowmesh import (
    CommitSummary,
    Context,
    FlowmeshError,
    InvalidHandler,
    Mailbox,
    MailboxOptions,
    Mesh,
    Message,
    Observer,
    Reject,
    Retry,
    RetryAfter,
)
from flowmesh._runtime.cell import Cell
from flowmesh._runtime.observing import MAX_ROUNDS
from flowmesh.testing import BACKENDS, run, settled
from flowmesh.testing.virtual import Backend
from tests.runtime.counting import counts

pytestmark = pytest.mark.anyio

Line = tuple[Any, ...]


class Order(Struct, frozen=True):
    id: int
    does: str = "return"


class Diary(Observer):
    """Writes down every point but `committed`, and each summary beside it."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.summaries: list[CommitSummary] = []

    def entered(self, message: Message, mailbox: str, /) -> None:
        self.lines.append(("entered", message.body.id, mailbox))

    def handed_out(self, message: Message, mailbox: str, /, *, actor: str | None, attempt: int) -> None:
        self.lines.append(("handed out", message.body.id, mailbox, actor, attempt))

    def settled(self, message: Message, mailbox: str, /, *, outcome: str) -> None:
        self.lines.append(("settled", message.body.id, mailbox, outcome))

    def dead(self, message: Message, mailbox: str, /, *, reason: str, detail: str) -> None:
        self.lines.append(("dead", message.body.id, mailbox, reason, detail))

    def retried(self, message: Message, mailbox: str, /, *, attempt: int, delay: float) -> None:
        self.lines.append(("retried", message.body.id, mailbox, attempt, delay))

    def committed(self, summary: CommitSummary, /) -> None:
        self.summaries.append(summary)


class Shop:
    """A mesh with a diary and an actor that does what its order says."""

    def __init__(self, *observers: Observer) -> None:
        self.diary = Diary()
        self.mesh = Mesh("shop", grace=1.0, observers=(*observers, self.diary))

        @self.mesh.actor(retry=Retry(2, initial=3.0, jitter="none", on=(OSError,)))
        async def charge(order: Order, ctx: Context) -> int:
            match order.does:
                case "raise":
                    raise OSError("no bank")
                case "reject":
                    raise Reject("never")
                case "postpone" if not ctx.redelivered:
                    raise RetryAfter(4.0)
                case "send":
                    ctx.tell(self.charge, Order(order.id + 1))
                case "hang":
                    await anyio.sleep_forever()
            return order.id

        self.charge = charge


# The points


@pytest.mark.parametrize("does", ["tell", "ask"])
async def test_a_copy_that_is_handled(does: str):
    """Entered, handed out, settled: of a plain message as of an ask."""
    shop = Shop()
    async with shop.mesh:
        await (shop.charge.tell(Order(1)) if does == "tell" else shop.charge.ask(Order(1)))
        await shop.mesh.idle()
    entered, handed_out = ("entered", 1, "charge"), ("handed out", 1, "charge", "charge", 1)
    assert shop.diary.lines == [entered, handed_out, ("settled", 1, "charge", "acked")]
    assert shop.diary.summaries == [
        CommitSummary(entered=1, settled=0, returned=0, deferred=0),
        CommitSummary(entered=0, settled=1, returned=0, deferred=0),
    ]


async def test_a_copy_that_fails_for_good():
    """A counted return tells the attempt to come and its delay; a death tells its reason, before the letter enters its rest."""
    shop = Shop()
    async with shop.mesh:
        await shop.charge.tell(Order(1, "raise"))
        await shop.mesh.idle()
    assert shop.diary.lines == [
        ("entered", 1, "charge"),
        ("handed out", 1, "charge", "charge", 1),
        ("retried", 1, "charge", 2, 3.0),
        ("handed out", 1, "charge", "charge", 2),
        ("settled", 1, "charge", "dead"),
        ("dead", 1, "charge", "failed", "OSError: no bank"),
        ("entered", 1, "mesh.dead_letters"),
    ]


async def test_a_copy_that_is_rejected_and_replayed():
    """A rejection has its reason; the replay ends the letter and enters the mailbox again, in one commit."""
    shop = Shop()
    async with shop.mesh:
        await shop.charge.tell(Order(1, "reject"))
        await shop.mesh.idle()
        del shop.diary.lines[:], shop.diary.summaries[:]
        shop.charge.pause()
        await shop.mesh.dead_letters.replay()
    assert shop.diary.lines == [("settled", 1, "mesh.dead_letters", "acked"), ("entered", 1, "charge")]
    assert shop.diary.summaries == [CommitSummary(entered=1, settled=1, returned=0, deferred=0)]


async def test_a_copy_that_is_put_off():
    """RetryAfter, and the hand-back of a stop, keep the attempt."""
    shop = Shop()
    async with shop.mesh:
        await shop.charge.tell(Order(1, "postpone"))
        await shop.mesh.idle()
        await shop.charge.tell(Order(2, "hang"))
        await settled()
    assert [line for line in shop.diary.lines if line[0] == "retried"] == [
        ("retried", 1, "charge", 1, 4.0),
        ("retried", 2, "charge", 1, 0.0),
    ]
    assert counts(shop.charge.mailbox) == {"entered": 2, "acked": 1, "ready": 1}


async def test_outputs_enter_with_the_ack():
    """What a turn collected enters in the commit that settles it."""
    shop = Shop()
    async with shop.mesh:
        await shop.charge.tell(Order(1, "send"))
        await shop.mesh.idle()
    assert shop.diary.lines[2:4] == [("settled", 1, "charge", "acked"), ("entered", 2, "charge")]
    assert shop.diary.summaries[1] == CommitSummary(entered=1, settled=1, returned=0, deferred=0)


async def test_a_deferred_message_enters_when_it_is_due():
    """A timer is a commit of its own; nothing enters before it is due."""
    shop = Shop()
    async with shop.mesh:
        await shop.charge.tell(Order(1), delay=5.0)
        await anyio.sleep(4.9)
        assert shop.diary.lines == []
        assert shop.diary.summaries == [CommitSummary(entered=0, settled=0, returned=0, deferred=1)]
        await anyio.sleep(0.2)
        assert [line[0] for line in shop.diary.lines] == ["entered", "handed out", "settled"]


async def test_a_manual_consumer():
    """A delivery that somebody pulls is handed out to no actor; a nack is told with its delay."""
    shop = Shop()
    box = shop.mesh.mailbox("box")
    async with shop.mesh:
        await shop.mesh.exchange("").publish(Order(1), "box")
        await (await box.get()).nack(delay=2.0)
        await (await box.get()).reject("no use")
    assert shop.diary.lines == [
        ("entered", 1, "box"),
        ("handed out", 1, "box", None, 1),
        ("retried", 1, "box", 1, 2.0),
        ("handed out", 1, "box", None, 1),
        ("settled", 1, "box", "dead"),
        ("dead", 1, "box", "rejected", "no use"),
        ("entered", 1, "mesh.dead_letters"),
    ]


async def test_a_copy_that_a_mailbox_leaves_out():
    """A copy that is left out enters and ends in one; with a dead-letter exchange it is dead of maxlen."""
    shop = Shop()
    shop.mesh.mailbox("small", MailboxOptions(capacity=1, overflow="drop_newest"))
    shop.mesh.mailbox("tended", MailboxOptions(capacity=1, overflow="drop_newest", dead_letter="graves"))
    shop.mesh.exchange("graves", "fanout").bind(shop.mesh.mailbox("grave"))
    async with shop.mesh:
        for name in ("small", "tended"):
            for number in (1, 2):
                await shop.mesh.exchange("").publish(Order(number), name)
    assert shop.diary.lines == [
        ("entered", 1, "small"),
        ("entered", 2, "small"),
        ("settled", 2, "small", "dropped"),
        ("entered", 1, "tended"),
        ("entered", 2, "tended"),
        ("settled", 2, "tended", "dead"),
        ("dead", 2, "tended", "maxlen", ""),
        ("entered", 2, "grave"),
    ]


async def test_a_body_that_its_handler_cannot_take():
    """A malformed copy dies without having been handed to its handler."""
    shop = Shop()
    orders = shop.mesh.exchange("orders", "fanout")
    orders.bind(shop.charge)

    class Wrong(Struct, frozen=True):
        id: str

    async with shop.mesh:
        await orders.publish(Wrong("x"))
        await shop.mesh.idle()
    assert [line[0] for line in shop.diary.lines] == ["entered", "settled", "dead", "entered"]
    assert shop.diary.lines[2][3] == "malformed"


async def test_copies_of_an_earlier_run():
    """Copies that stood in a mailbox before anybody listened end as all others do."""
    mesh = Mesh("shop")
    diary = Diary()

    @mesh.actor
    async def charge(order: Order) -> None: ...

    async with mesh:
        charge.pause()
        for number in (1, 2):
            await charge.tell(Order(number))
    mesh._engine.observers = (diary,)  # as mesh.configure sets it
    async with mesh:
        charge.resume()
        await mesh.idle()
    assert diary.lines == [
        ("handed out", 1, "charge", "charge", 1),
        ("settled", 1, "charge", "acked"),
        ("handed out", 2, "charge", "charge", 1),
        ("settled", 2, "charge", "acked"),
    ]


async def test_several_are_told_in_turn():
    """Every observer is told of a point before anybody is told of the next one."""
    order: list[str] = []

    class First(Observer):
        def entered(self, message: Message, mailbox: str, /) -> None:
            order.append("first entered")

        def settled(self, message: Message, mailbox: str, /, *, outcome: str) -> None:
            order.append("first settled")

    class Second:  # no subclass, and not all of the points
        def entered(self, message: Message, mailbox: str) -> None:
            order.append("second entered")

    second: Any = Second()
    shop = Shop(First(), second)
    async with shop.mesh:
        await shop.charge.ask(Order(1))
    assert order == ["first entered", "second entered", "first settled"]


# Errors of their own


class Failing(Observer):
    """Raises at one point."""

    def __init__(self, point: str, error: BaseException) -> None:
        self._point = point
        self._error = error
        self.told = 0

    def _look(self, point: str) -> None:
        self.told += 1
        if point == self._point:
            raise self._error

    def entered(self, message: Message, mailbox: str, /) -> None:
        self._look("entered")

    def handed_out(self, message: Message, mailbox: str, /, *, actor: str | None, attempt: int) -> None:
        self._look("handed_out")

    def settled(self, message: Message, mailbox: str, /, *, outcome: str) -> None:
        self._look("settled")

    def dead(self, message: Message, mailbox: str, /, *, reason: str, detail: str) -> None:
        self._look("dead")

    def retried(self, message: Message, mailbox: str, /, *, attempt: int, delay: float) -> None:
        self._look("retried")

    def committed(self, summary: CommitSummary, /) -> None:
        self._look("committed")


@pytest.mark.parametrize("point", ["entered", "handed_out", "settled", "dead", "retried", "committed"])
async def test_one_that_raises_is_asked_no_more(point: str, caplog: pytest.LogCaptureFixture):
    """It is logged once with its traceback and counted, and then left alone; no message and no other observer notices."""
    failing = Failing(point, LookupError("of its own"))
    shop, undisturbed = Shop(failing), Shop()
    for each in (shop, undisturbed):
        async with each.mesh:
            await each.charge.tell(Order(1, "raise"))
            assert await each.charge.ask(Order(2)) == 2
            await each.mesh.idle()
            assert each.mesh.statistics().observers_failed == (each is shop)
    told = failing.told
    assert shop.diary.lines == undisturbed.diary.lines
    assert shop.diary.summaries == undisturbed.diary.summaries
    (record,) = [record for record in caplog.records if "asked no more" in record.getMessage()]
    assert record.levelno == logging.ERROR
    assert record.exc_info
    assert isinstance(record.exc_info[1], LookupError)
    assert point in record.getMessage()
    # A new run asks it again.
    async with shop.mesh:
        assert shop.mesh.statistics().observers_failed == 0
        await shop.charge.ask(Order(3))
    assert failing.told > told


async def test_its_system_exit_stops_the_mesh():
    """What is no Exception leaves `async with mesh` bare, and what was in hand goes back."""
    shop = Shop(Failing("handed_out", SystemExit(3)))

    async def main() -> None:
        async with shop.mesh:
            await shop.charge.tell(Order(1, "hang"))
            await anyio.sleep(1.0)

    with pytest.raises(SystemExit):
        await main()
    assert counts(shop.charge.mailbox) == {"entered": 1, "ready": 1}


# Sending from a point


async def test_a_send_is_told_after_what_came_before():
    """A point that sends is over, for every observer, before what it sent is told."""

    class Alarm(Observer):
        def dead(self, message: Message, mailbox: str, /, *, reason: str, detail: str) -> None:
            shop.charge.tell_nowait(Order(message.body.id + 100))

    shop = Shop(Alarm())
    async with shop.mesh:
        await shop.charge.tell(Order(1, "reject"))
        await shop.mesh.idle()
        assert shop.mesh.statistics().observers_failed == 0
    assert [line[:2] for line in shop.diary.lines] == [
        ("entered", 1),
        ("handed out", 1),
        ("settled", 1),
        ("dead", 1),
        ("entered", 1),
        ("entered", 101),
        ("handed out", 101),
        ("settled", 101),
    ]


async def test_one_that_answers_itself_is_cut_off(caplog: pytest.LogCaptureFixture):
    """An observer whose sends make it send cannot hold the loop for ever."""

    class Echo(Observer):
        def entered(self, message: Message, mailbox: str, /) -> None:
            shop.charge.tell_nowait(Order(message.body.id + 1))

    shop = Shop(Echo())
    async with shop.mesh:
        await shop.charge.tell(Order(0))
        await shop.mesh.idle()
        assert shop.mesh.statistics().observers_failed == 1
    assert counts(shop.charge.mailbox) == {"entered": MAX_ROUNDS + 2, "acked": MAX_ROUNDS + 2}
    assert "answers what comes of its own sends" in caplog.text


# Declaring them


class Asynchronous:
    async def entered(self, message: Message, mailbox: str) -> None: ...


class TooFew:
    def settled(self, message: Message, mailbox: str) -> None: ...


class NotCallable:
    dead = 7


class Nothing(Observer):
    """Subclasses, and wants nothing."""


@pytest.mark.parametrize(
    "wrong, says",
    [
        (Diary, r"Diary is a class: give an instance, Diary\(\)"),
        (Asynchronous(), r"plain method: def entered\(self, message, mailbox\) -> None"),
        (TooFew(), r"def settled\(self, message, mailbox, \*, outcome\) -> None"),
        (NotCallable(), r"plain method: def dead\(self, message, mailbox, \*, reason, detail\) -> None"),
        (Nothing(), "would never be asked: write at least one of entered, handed_out"),
        (object(), "would never be asked"),
    ],
)
def test_what_cannot_be_asked_is_refused(wrong: Any, says: str):
    """An observer that could never be told anything is refused where it is given, with the mend."""
    with pytest.raises(InvalidHandler, match=says):
        Mesh("shop", observers=(wrong,))


@pytest.mark.parametrize("wrong", [Diary(), None, "diary"], ids=["one", "None", "text"])
def test_observers_are_a_sequence(wrong: Any):
    """A single observer, or none, in place of a sequence is refused with the mend."""
    with pytest.raises(TypeError, match="observers must be a sequence"):
        Mesh("shop", observers=wrong)


# What they cost


@pytest.mark.parametrize("observers", [(), (Diary(),)], ids=["none", "one"])
async def test_none_costs_nothing(observers: tuple[Observer, ...]):
    """Without observers publishers append, handlers are plain, and the ledger tells nobody; with one, nothing passes it."""
    mesh = Mesh("shop", observers=observers)

    @mesh.actor
    async def charge(order: Order) -> None: ...

    async with mesh:
        cell: Cell = charge.cell
        assert cell.is_plain == (not observers)
        assert cell.box.limit == (-1 if observers else cell.box.options.capacity)
        assert (mesh._engine.ground.ledger.on_applied is None) == (not observers)


# Every copy, whatever happens


class Tally(Observer):
    """Counts as mailboxes do, and follows each copy: it enters, and ends, once."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.alive: Counter[tuple[str, str]] = Counter()
        self.told: Counter[str] = Counter()
        self.summed: Counter[str] = Counter()

    def entered(self, message: Message, mailbox: str, /) -> None:
        self.told["entered"] += 1
        self.counts[mailbox, "entered"] += 1
        self.alive[message.id, mailbox] += 1

    def handed_out(self, message: Message, mailbox: str, /, *, actor: str | None, attempt: int) -> None:
        assert self.alive[message.id, mailbox] > 0

    def settled(self, message: Message, mailbox: str, /, *, outcome: str) -> None:
        self.told["settled"] += 1
        self.counts[mailbox, outcome] += 1
        self.alive[message.id, mailbox] -= 1
        assert self.alive[message.id, mailbox] >= 0

    def dead(self, message: Message, mailbox: str, /, *, reason: str, detail: str) -> None:
        self.counts[mailbox, "dead points"] += 1

    def retried(self, message: Message, mailbox: str, /, *, attempt: int, delay: float) -> None:
        self.told["returned"] += 1
        assert self.alive[message.id, mailbox] > 0

    def committed(self, summary: CommitSummary, /) -> None:
        for name in ("entered", "settled", "returned"):
            self.summed[name] += getattr(summary, name)


OUTCOMES = ("acked", "dead", "expired", "dropped", "withdrawn", "purged")
BOXES = {
    "work": MailboxOptions(capacity=3),
    "laned": MailboxOptions(capacity=2, overflow="reject", priorities=True),
    "oldest": MailboxOptions(capacity=2, overflow="drop_oldest", dead_letter="graves"),
    "newest": MailboxOptions(capacity=1, overflow="drop_newest"),
    "fading": MailboxOptions(ttl=1.0, max_deliveries=2, dead_letter="graves"),
    "grave": MailboxOptions(capacity=2, overflow="drop_newest", dead_letter="graves"),
}
does = st.sampled_from(["return", "raise", "reject", "postpone", "slow", "tell", "later"])
name = st.sampled_from(sorted(BOXES))
operation = st.one_of(
    st.tuples(st.just("publish"), st.sampled_from(["", *sorted(BOXES)]), does),
    st.tuples(st.just("publish with ttl"), st.sampled_from(["", *sorted(BOXES)]), does),
    st.tuples(st.just("defer"), st.sampled_from(["", *sorted(BOXES)]), does),
    st.tuples(st.just("ask"), st.sampled_from(["work", "laned"]), does),
    st.tuples(st.just("wrong body"), st.sampled_from(["", "work"]), st.just("")),
    st.tuples(st.just("pull"), st.sampled_from(["oldest", "newest", "fading", "grave"]), st.sampled_from("anr")),
    st.tuples(st.sampled_from(["purge", "delete"]), name, st.just("")),
    st.tuples(st.sampled_from(["pause", "resume"]), st.sampled_from(["work", "laned"]), st.just("")),
    st.tuples(st.sampled_from(["sleep", "replay", "forget"]), st.just(""), st.just("")),
)


@given(st.lists(operation, min_size=1, max_size=30), st.sampled_from(BACKENDS))
def test_every_copy_is_told_once(script: list[tuple[str, str, str]], backend: Backend) -> None:
    """Whatever is done, an observer counts what the mailboxes count: each copy enters once and ends once, with its outcome."""
    run(_Random(script).main, backend=backend)


class _Random:
    """Carries out a script of operations, then compares the numbers."""

    def __init__(self, script: list[tuple[str, str, str]]) -> None:
        self.script = script
        self.tally = Tally()
        self.mesh = Mesh("shop", grace=2.0, observers=(self.tally,))
        self.boxes: list[Mailbox] = [self.mesh.mailbox(name, options) for name, options in BOXES.items()]
        self.everywhere = self.mesh.exchange("everywhere", "fanout")
        for box in self.boxes[:5]:
            self.everywhere.bind(box)
        self.mesh.exchange("graves", "fanout").bind(self.boxes[5])
        retry = Retry(2, initial=0.5, jitter="none", on=(OSError,))

        async def handle(order: Order, ctx: Context) -> int:
            match order.does:
                case "raise":
                    raise OSError("no bank")
                case "reject":
                    raise Reject("never")
                case "postpone" if not ctx.redelivered:
                    raise RetryAfter(0.7)
                case "slow":
                    await anyio.sleep(0.6)
                case "tell":
                    ctx.publish(self.everywhere, Order(order.id))
                case "later":
                    ctx.publish(self.everywhere, Order(order.id), delay=0.4)
                case _:
                    pass
            return order.id

        self.work = self.mesh.actor(handle, name="work", mailbox=self.boxes[0], retry=retry, timeout=0.5, concurrency=2)
        self.laned = self.mesh.actor(handle, name="laned", mailbox=self.boxes[1], retry=retry, by=lambda order: order.does)

    async def main(self) -> None:
        async with self.mesh, anyio.create_task_group() as group:
            for number, (what, where, how) in enumerate(self.script):
                group.start_soon(self.do, number, what, where, how)
                await anyio.sleep(0.05)
                self.compare()
            await anyio.sleep(1.5)
            self.compare()
        self.compare()

    async def do(self, number: int, what: str, where: str, how: str) -> None:
        box = next((box for box in self.boxes if box.name == where), None)
        exchange = self.everywhere if box is None else self.mesh.exchange("")
        order = Order(number, how)
        with contextlib.suppress(FlowmeshError, TimeoutError, OSError, anyio.WouldBlock), anyio.move_on_after(2.0):
            match what:
                case "publish":
                    await exchange.publish(order, where, priority=number % 3)
                case "publish with ttl":
                    await exchange.publish(order, where, ttl=0.3)
                case "wrong body":
                    await exchange.publish(object(), where)
                case "defer":
                    await exchange.publish(order, where, delay=0.2)
                case "ask":
                    await (self.work if where == "work" else self.laned).ask(order, timeout=0.8)
                case "pull":
                    assert box is not None
                    delivery = box.get_nowait()
                    await anyio.sleep(0.1)
                    await (delivery.ack() if how == "a" else delivery.nack(delay=0.3) if how == "n" else delivery.reject())
                case "purge":
                    assert box is not None
                    box.purge()
                case "delete":
                    assert box is not None
                    box.delete()
                case "pause" | "resume":
                    actor = self.work if where == "work" else self.laned
                    (actor.pause if what == "pause" else actor.resume)()
                case "sleep":
                    await anyio.sleep(1.0)
                case "replay":
                    await self.mesh.dead_letters.replay()
                case "forget":
                    self.mesh.dead_letters.purge()
                case _:
                    raise AssertionError(what)

    def compare(self) -> None:
        """Compare what was told with what is counted."""
        tally = self.tally
        assert self.mesh.statistics().observers_failed == 0
        numbers = {box.name: box.statistics() for box in self.boxes}
        numbers["mesh.dead_letters"] = self.mesh.dead_letters.statistics()
        for name, number in numbers.items():
            for kind in ("entered", *OUTCOMES):
                assert tally.counts[name, kind] == getattr(number, kind), (name, kind)
            assert tally.counts[name, "dead points"] == number.dead
            alive = sum(count for (_, mailbox), count in tally.alive.items() if mailbox == name)
            assert alive == number.ready + number.leased + number.delayed
        assert tally.summed == tally.told
