"""What users declare, and the types that both checkers infer for it. Checked, never run.

A refused line carries each checker's own ignore; both report an ignore that is no longer needed, so a refusal that disappears
fails the gate.
"""

import datetime
import zoneinfo
from collections.abc import Awaitable, Coroutine
from typing import assert_type

from msgspec import Struct
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.trace import NoOpTracerProvider

from flowmesh import (
    Actor,
    ActorContext,
    Binding,
    Clock,
    Context,
    Exchange,
    Mailbox,
    MailboxOptions,
    MemoryStore,
    Mesh,
    Part,
    Retry,
    Schedule,
)


class Order(Struct, frozen=True):
    number: int
    customer: str


class Invoice(Struct, frozen=True):
    total: int


mesh = Mesh("shop")
orders = mesh.exchange("orders", "topic")


# Handlers: what they take and return is what the actor takes and replies


@mesh.actor
async def charge(order: Order) -> Invoice:
    return Invoice(order.number)


@mesh.actor
async def with_context(order: Order, ctx: Context) -> Invoice:
    ctx.log.info("%s", ctx.attempt)
    return Invoice(order.number)


@mesh.actor
async def context_by_name(order: Order, *, ctx: Context) -> str:
    return ctx.actor


@mesh.actor
async def tick() -> int:
    return 1


@mesh.actor
async def tick_with_context(_: None, ctx: Context) -> int:
    return ctx.attempt


@mesh.actor
def in_a_thread(order: Order) -> Invoice:
    return Invoice(order.number)


@mesh.actor
def thread_without_body() -> float:
    return 1.0


@mesh.actor
async def either(thing: Order | None) -> str:
    return repr(thing)


@mesh.actor(
    name="billing",
    bind=[orders.on("order.*.placed"), orders.on("order.*.changed")],
    mailbox=MailboxOptions(capacity=256),
    concurrency=8,
    retry=Retry(5, on=(OSError,)),
    timeout=20.0,
    by=lambda order: order.customer,
)
async def bill(order: Order, ctx: Context) -> Invoice:
    return Invoice(order.number)


reliable = mesh.actor(retry=Retry(5), bind=orders.on("#"), mailbox=mesh.mailbox("shared"), timeout=None)


@reliable
async def preset(order: Order) -> Invoice:
    return Invoice(order.number)


@reliable
def preset_in_a_thread() -> str:
    return ""


def handlers() -> None:
    assert_type(charge, Actor[Order, Invoice])
    assert_type(with_context, Actor[Order, Invoice])
    assert_type(context_by_name, Actor[Order, str])
    assert_type(tick, Actor[None, int])
    assert_type(tick_with_context, Actor[None, int])
    assert_type(in_a_thread, Actor[Order, Invoice])
    assert_type(thread_without_body, Actor[None, float])
    assert_type(either, Actor[Order | None, str])
    assert_type(bill, Actor[Order, Invoice])
    assert_type(preset, Actor[Order, Invoice])
    assert_type(preset_in_a_thread, Actor[None, str])

    async def local(order: Order) -> Invoice:
        return Invoice(order.number)

    assert_type(mesh.actor(local), Actor[Order, Invoice])
    assert_type(mesh.actor(local, name="another", concurrency=2), Actor[Order, Invoice])
    assert_type(reliable(local), Actor[Order, Invoice])
    assert_type(charge(Order(1, "x")), Awaitable[Invoice])
    assert_type(charge.name, str)
    assert_type(charge.mailbox, Mailbox)


def refused_actors() -> None:
    async def local(order: Order) -> None: ...

    mesh.actor(local, nme="x")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    mesh.actor(local, concurrency="8")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    mesh.actor(local, retry=5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    mesh.actor(local, timeout="20s")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    mesh.actor(local, mailbox="box")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    mesh.actor(local, bind=orders)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    mesh.actor(local, by="customer")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    mesh.actor(restart=3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    mesh.actor("local")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    reliable("local")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]


# An actor of a wider body can stand in for one of a narrower, and one of a narrower reply for one of a wider


def variance() -> object:
    narrower: Actor[Order, str] = either
    wider: Actor[Order, object] = charge
    other: Actor[Invoice, Invoice] = charge  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    return narrower, wider, other


# Exchanges, bindings, mailboxes


def topology() -> None:
    assert_type(orders, Exchange)
    assert_type(mesh.exchange("same"), Exchange)
    assert_type(mesh.exchange("h", "headers", alternate=orders, internal=True), Exchange)
    assert_type(mesh.exchange("d", alternate="orders"), Exchange)
    assert_type(mesh.exchange("s", "hash", arguments={"hash-header": "tenant"}), Exchange)
    mesh.exchange("s", "hash", arguments="tenant")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    mesh.exchange("x", "topc")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    mesh.exchange("x", type=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(mesh.exchange("k", durable=True), Exchange)
    mesh.exchange("x", durable="yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    box = mesh.mailbox(
        "box", MailboxOptions(capacity=1, overflow="drop_oldest", ttl=1.0, dead_letter=orders, dead_letter_key="")
    )
    assert_type(box, Mailbox)
    assert_type(box.options, MailboxOptions)
    MailboxOptions(single_active=True, expires=60.0)
    MailboxOptions(single_active="first")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    MailboxOptions(expires="1 h")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    MailboxOptions(overflow="drop")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    MailboxOptions(capacity="big")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    MailboxOptions(size=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    MailboxOptions(dead_letter=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    mesh.mailbox("box", {"capacity": 1})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    assert_type(orders.on("a.*"), Binding)
    assert_type(orders.on(headers={"tenant": "a"}, match="any"), Binding)
    orders.on(headers={"tenant": "a"}, match="some")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    orders.bind(box, "a.b")
    orders.bind(charge, "a.b", arguments={"x-match": "any"})
    orders.bind(mesh.exchange("other"))
    orders.unbind(charge, "a.b")
    orders.bind("box")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    orders.bind(orders.on("a"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    orders.delete(if_unused=True)
    orders.delete(True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    assert_type(box.delete(if_empty=True), int)


def policies() -> None:
    assert_type(Retry(), Retry)
    Retry(3, initial=0.1, factor=2, maximum=5, jitter="none", on=(OSError, ValueError), never=(TimeoutError,))
    Retry("3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Retry(jitter="half")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Retry(on=OSError)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Retry(on=(3,))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Retry(times=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    MailboxOptions().capacity = 3  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


# Schedules and sources


@mesh.every(60.0)
async def report() -> int:
    return 1


@mesh.every(60, name="minute", overlap="allow")
def report_in_a_thread(_: None, ctx: Context) -> str:
    return ctx.actor


@mesh.cron("0 9 * * mon-fri", tz="Europe/Berlin", jitter=60.0)
async def report_daily() -> int:
    return 1


@Part("nights").cron("@daily", tz=zoneinfo.ZoneInfo("Asia/Tokyo"), overlap="queue")
def report_nightly(_: None, ctx: Context) -> str:
    return ctx.actor


def schedules() -> None:
    assert_type(report_daily, Actor[None, int])
    assert_type(report_nightly, Actor[None, str])
    assert_type(mesh.cron("0 9 * * *", tick, name="c1", catchup="all", within=3600.0), Schedule)
    assert_type(mesh.cron("0 9 * * *", charge, body=Order(1, "x"), overlap="cancel"), Schedule)
    assert_type(mesh.cron("0 9 * * *", orders, body=Order(1, "x"), key="order.eu.placed"), Schedule)
    assert_type(mesh.every(60, tick, start=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), catchup="none"), Schedule)
    assert_type(mesh.every(60, tick, name="t2", fixed_delay=True), Schedule)
    mesh.cron("0 9 * * *", charge)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    mesh.cron("0 9 * * *", tick, fixed_delay=True)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    mesh.cron("0 9 * * *", tick, catchup="most")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    mesh.every(1.0, tick, tz="UTC")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    assert_type(report, Actor[None, int])
    assert_type(report_in_a_thread, Actor[None, str])
    assert_type(mesh.every(1.0, tick, name="t1"), Schedule)
    assert_type(mesh.every(1.0, charge, body=Order(1, "x")), Schedule)
    assert_type(mesh.every(1.0, orders, body=Order(1, "x"), key="order.eu.placed", overlap="skip"), Schedule)
    assert_type(mesh.every(1.0, mesh.mailbox("box"), body=1), Schedule)
    mesh.every(1.0, charge)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    mesh.every(1.0, charge, body=Invoice(1))  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]
    mesh.every("1 s", tick)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    mesh.every(1.0, tick, overlap="never")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    mesh.every(1.0, "tick")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]

    async def takes_order(order: Order) -> None: ...

    mesh.every(1.0)(takes_order)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]


@mesh.source
async def poll(ctx: ActorContext) -> None:
    ctx.log.info("%s", ctx.name)


@mesh.source(name="second")
async def poll_named(ctx: ActorContext) -> None: ...


def sources(ctx: ActorContext) -> None:
    started: Coroutine[object, object, None] = poll(ctx)
    started.close()

    async def no_context() -> None: ...

    async def takes_order(order: Order) -> None: ...

    def not_async(ctx: ActorContext) -> None: ...

    mesh.source(no_context)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
    mesh.source(takes_order)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
    mesh.source(not_async)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]


# The mesh itself


class Sundial:
    """A Clock by its shape alone."""

    def start(self) -> None: ...
    def now(self) -> float:
        return 0.0

    def wall(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None: ...


def parts() -> None:
    part = Part("billing")
    orders = part.exchange("orders", "topic")
    assert_type(orders, Exchange)
    assert_type(part.mailbox("box"), Mailbox)

    @part.actor(bind=orders.on("a"))
    async def bill(order: str) -> int:
        return len(order)

    assert_type(bill, Actor[str, int])
    mesh.add(part)
    mesh.add(mesh)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    part.add(part)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    part.run()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


def meshes() -> None:
    clock: Clock = Sundial()
    Mesh("shop", clock=clock, grace=1)
    Mesh("shop", tracer_provider=NoOpTracerProvider(), meter_provider=NoOpMeterProvider())
    Mesh("shop", tracer_provider=NoOpMeterProvider())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Mesh("shop", clock=object())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Mesh("shop", grace="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Mesh("shop", clock)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Mesh("shop", store="shop.db")
    Mesh("shop", store=MemoryStore())
    Mesh("shop", store=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    mesh.configure(clock=clock, grace=2.0)
    mesh.configure(grace="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    mesh.configure(grase=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    assert_type(mesh.name, str)
    assert_type(mesh.run(), int)
    assert_type(mesh.run(backend="trio"), int)
    mesh.run("curio")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
