"""What users send, ask, pull and read, and the types that both checkers infer for it. Checked, never run.

Of refused lines see declaring.py.
"""

import datetime
from collections.abc import Mapping
from typing import assert_type

from flowmesh import (
    Actor,
    ActorStatistics,
    Context,
    DeadLetters,
    Death,
    Deliveries,
    Delivery,
    DrainReport,
    Fire,
    MailboxStatistics,
    Mesh,
    Message,
    Receipt,
    Schedule,
    ScheduleStatistics,
    Statistics,
    Timer,
    Timers,
    Topology,
    TracingStatistics,
)
from tests.typing.declaring import Invoice, Order, charge, either, in_a_thread, mesh, orders, tick

ORDER = Order(1, "x")
NOON = datetime.datetime(2030, 1, 1, 12, tzinfo=datetime.UTC)


async def tell() -> None:
    assert_type(await charge.tell(ORDER), Receipt)
    assert_type(await tick.tell(), Receipt)
    assert_type(await tick.tell(None), Receipt)
    assert_type(await either.tell(), Receipt)
    assert_type(await either.tell(ORDER), Receipt)
    assert_type(charge.tell_nowait(ORDER), Receipt)
    assert_type(tick.tell_nowait(delay=1), Receipt)
    await charge.tell(ORDER, headers={"a": 1}, priority=3, ttl=1.0, delay=2, message_id="m", correlation_id="c", reply_to="box")
    await charge.tell(ORDER, at=NOON, reply_to=mesh.mailbox("box"))

    await charge.tell(Invoice(1))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await charge.tell()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await charge.tell(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await tick.tell(ORDER)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await charge.tell(ORDER, dely=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await charge.tell(ORDER, delay="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await charge.tell(ORDER, at=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await charge.tell(ORDER, mandatory=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await charge.tell(ORDER, reply_to=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    charge.tell_nowait(Invoice(1))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    charge.tell_nowait()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def ask() -> None:
    assert_type(await charge.ask(ORDER), Invoice)
    assert_type(await charge.ask(ORDER, timeout=None), Invoice)
    assert_type(await in_a_thread.ask(ORDER, timeout=1, priority=2), Invoice)
    assert_type(await tick.ask(), int)
    assert_type(await either.ask(None), str)

    await charge.ask(Invoice(1))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await charge.ask()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await charge.ask(ORDER, timeout="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await charge.ask(ORDER, 1.0)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    number: int = await charge.ask(ORDER)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    assert number


async def publish() -> None:
    receipt = await orders.publish(ORDER, "order.eu.placed")
    assert_type(receipt, Receipt)
    assert_type(receipt.message_id, str)
    assert_type(receipt.routed, int)
    assert_type(receipt.dropped, int)
    assert_type(receipt.timer, str | None)
    assert_type(orders.publish_nowait(ORDER, "k", mandatory=True, headers=None), Receipt)
    assert_type(await orders.publish_many([(ORDER, "a"), (Invoice(1), "b")], ttl=1.0), list[Receipt])
    await orders.publish(ORDER, "k", key="k")  # type: ignore[misc]  # pyright: ignore[reportCallIssue]
    await orders.publish(ORDER, 3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await orders.publish(ORDER, mandatry=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await orders.publish(ORDER, priority="high")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await orders.publish_many([ORDER])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    receipt.routed = 3  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def waiting(receipt: Receipt) -> None:
    assert_type(mesh.timers, Timers)
    assert_type(mesh.timers.list(limit=3), list[Timer])
    assert_type(mesh.timers.get("7"), Timer | None)
    assert_type(mesh.timers.cancel(receipt.timer), bool)
    timer = mesh.timers.move(receipt.timer, delay=1)
    assert_type(timer.due, datetime.datetime)
    assert_type(timer.message, Message)
    mesh.timers.move("7", 1.0)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    timer.due = None  # type: ignore[misc, assignment]  # pyright: ignore[reportAttributeAccessIssue]


def turn(ctx: Context) -> None:
    assert_type(ctx.message, Message)
    assert_type(ctx.attempt, int)
    assert_type(ctx.redelivered, bool)
    assert_type(ctx.statistics, Statistics)
    ctx.progress(1, 2)
    ctx.publish(orders, ORDER, key="order.eu.placed", delay=1.0)
    ctx.tell(charge, ORDER, priority=1)
    ctx.tell(tick)
    ctx.tell(either, None)
    ctx.publish(orders, ORDER, "k")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    ctx.publish("orders", ORDER)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ctx.publish(orders, ORDER, mandatory=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    ctx.tell(charge, Invoice(1))  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]
    ctx.tell(charge)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ctx.tell(orders, ORDER)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]


def message(envelope: Message) -> None:
    assert_type(envelope.id, str)
    assert_type(envelope.cause, str | None)
    assert_type(envelope.key, str)
    assert_type(envelope.priority, int)
    assert_type(envelope.deaths, tuple[Death, ...])
    assert_type(envelope.deaths[0].count, int)
    envelope.key = "other"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


async def consume() -> None:
    box = mesh.mailbox("box")
    async with box.consume(prefetch=4) as deliveries:
        assert_type(deliveries, Deliveries)
        async for delivery in deliveries:
            assert_type(delivery, Delivery)
            assert_type(delivery.message, Message)
            await delivery.ack()
            await delivery.nack(delay=1.0)
            await delivery.reject("why")
            await delivery.nack(1.0)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    assert_type(await box.get(), Delivery)
    assert_type(box.get_nowait(), Delivery)
    assert_type(box.purge(), int)
    assert_type(box.peek(limit=3), list[Message])
    assert_type(box.statistics(), MailboxStatistics)
    box.consume(priority=-1)
    box.consume(priority="high")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    box.consume(16, 1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    box.consume("4")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def returns_from_inside() -> Invoice:
    """Leaving the mesh swallows no error, so nothing has to be returned after the block."""
    async with mesh as entered:
        assert_type(entered, Mesh)
        return await charge.ask(ORDER)


async def lifetime() -> None:
    assert_type(await mesh.serve(), int)
    assert_type(mesh.report, DrainReport | None)
    await mesh.idle()
    mesh.stop()
    charge.pause()
    charge.resume()
    await charge.stop()
    if mesh.report is not None:
        assert_type(mesh.report.exit_code, int)


def reading(schedule: Schedule) -> None:
    numbers = mesh.statistics(longer_than=2.5)
    assert_type(numbers, Statistics)
    assert_type(numbers.tracing, TracingStatistics | None)
    assert_type(numbers.mailboxes["charge"], MailboxStatistics)
    assert_type(numbers.mailboxes["charge"].ready, int)
    assert_type(numbers.mailboxes["charge"].oldest_age, float | None)
    assert_type(numbers.actors["charge"], ActorStatistics)
    assert_type(numbers.actors["charge"].running_for, Mapping[str, float])
    assert_type(mesh.dump(), str)
    assert_type(mesh.topology(), Topology)
    assert_type([str(ring) for ring in mesh.topology().rings()], list[str])
    assert_type(mesh.topology().mermaid(), str)
    assert_type(schedule.next_fire, datetime.datetime | None)
    assert_type(schedule.upcoming(3, after=datetime.datetime.now(datetime.UTC)), list[datetime.datetime])
    assert_type(schedule.trigger_now(), bool)
    assert_type(schedule.missed, int)
    assert_type(numbers.schedules["report"], ScheduleStatistics)
    assert_type(numbers.schedules["report"].next_fire, datetime.datetime | None)
    schedule.pause()
    schedule.resume()
    schedule.cancel()


def firing(ctx: Context) -> None:
    assert_type(ctx.fire, Fire | None)
    if ctx.fire is not None:
        assert_type(ctx.fire.scheduled, datetime.datetime)
        assert_type(ctx.fire.missed, int)
        assert_type(ctx.fire.previous == "acked", bool)
    assert_type(ctx.message.fire, Fire | None)


async def dead_letters() -> None:
    assert_type(mesh.dead_letters, DeadLetters)
    assert_type(mesh.dead_letters.list(mailbox="charge", reason="failed", limit=3), list[Message])
    assert_type(await mesh.dead_letters.replay("id", mailbox="charge", limit=3), int)
    assert_type(mesh.dead_letters.purge(reason="rejected"), int)
    mesh.dead_letters.list(reason="broken")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await mesh.dead_letters.replay(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def pool(workers: list[Actor[Order, Invoice]]) -> list[Actor[Order, Invoice]]:
    """Actors can be kept in collections by what they take and give."""
    return [*workers, charge, in_a_thread]
