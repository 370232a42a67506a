"""Provided things: opened before the actors, given by type, closed after the drain."""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import anyio
import pytest
from msgspec import Struct

from flowmesh import Context, InvalidHandler, Mesh, PreconditionFailed, on
from flowmesh._runtime.ground import Phase
from flowmesh.testing import Swept, cancel_sweep

pytestmark = pytest.mark.anyio


class Order(Struct, frozen=True):
    id: int


class Thing:
    """Something provided; subclasses are types of their own."""

    def __init__(self, *parts: "Thing") -> None:
        self.parts = parts


class Settings(Thing): ...


class Pool(Thing): ...


class Mailer(Thing): ...


class Log:
    """Notes what is opened and closed."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    @asynccontextmanager
    async def thing(
        self, kind: type[Thing], *parts: Thing, opening: bool = False, closing: bool = False
    ) -> AsyncGenerator[Any]:
        name = kind.__name__
        await anyio.lowlevel.checkpoint()
        if opening:
            raise OSError(f"{name} does not open")
        self.lines.append(f"open {name}")
        try:
            yield kind(*parts)
        finally:
            self.lines.append(f"close {name}")
        if closing:
            raise OSError(f"{name} does not close")


@pytest.fixture
def log() -> Log:
    """A fresh one."""
    return Log()


def chain_of(mesh: Mesh, log: Log) -> None:
    """Declare Mailer -> Pool -> Settings, the first needed last."""

    def open_mailer(pool: Pool, settings: Settings) -> AbstractAsyncContextManager[Mailer]:
        return log.thing(Mailer, pool, settings)

    def open_pool(settings: Settings) -> AbstractAsyncContextManager[Pool]:
        return log.thing(Pool, settings)

    mesh.provide(Mailer, open_mailer)
    mesh.provide(Pool, open_pool)
    mesh.provide(Settings, partial(log.thing, Settings))


async def test_opened_in_the_order_of_their_needs_and_closed_in_reverse(log: Log):
    """Each thing is opened once, after what it needs and before any handler; it is closed after the last handler."""
    mesh, seen = Mesh("shop"), list[Thing]()
    chain_of(mesh, log)

    @mesh.actor
    async def bill(order: Order, ctx: Context, pool: Pool, *, mailer: Mailer) -> None:
        await anyio.sleep(order.id)
        seen.extend([pool, mailer])
        log.lines.append(f"handled {order.id} as {ctx.actor}")

    for _ in range(2):
        async with mesh:
            await bill.tell(Order(1))
    once = ["open Settings", "open Pool", "open Mailer", "handled 1 as bill", "close Mailer", "close Pool", "close Settings"]
    assert log.lines == once * 2
    pool, mailer = seen[:2]
    assert mailer.parts == (pool, pool.parts[0])
    assert seen[2] is not pool, "each run of the mesh has things of its own"


async def test_a_handler_with_things_alone_stays_on_the_fast_path(log: Log):
    """Things are bound once, at the start: such a handler is awaited directly, like one that asks for none."""
    mesh = Mesh("shop")
    chain_of(mesh, log)

    @mesh.actor
    async def bill(order: Order, pool: Pool) -> str:
        return type(pool).__name__

    @mesh.actor
    async def plain(order: Order) -> int:
        return order.id

    async with mesh:
        assert bill.cell.is_plain
        assert plain.cell.function is plain.cell.handler.function
        assert await bill.ask(Order(1)) == "Pool"
        assert await plain.ask(Order(1)) == 1


async def test_in_a_thread_without_a_body_and_with_a_default(log: Log):
    """A plain `def`, a handler without a body, and a parameter with a default are given things as well."""
    mesh = Mesh("shop")
    chain_of(mesh, log)

    @mesh.actor
    def threaded(order: Order, pool: Pool) -> str:
        return f"{type(pool).__name__} {order.id}"

    @mesh.actor
    async def tick(_: None, pool: Pool) -> str:
        return type(pool).__name__

    @mesh.actor
    async def defaults(order: Order, pool: Pool | None = None, other: Thing | None = None, mailer: Mailer = Mailer()) -> Any:  # noqa: B008
        return pool, other, mailer.parts

    async with mesh:
        assert await threaded.ask(Order(3)) == "Pool 3"
        assert await tick.ask() == "Pool"
        pool, other, parts = await defaults.ask(Order(1))
        assert (pool, other) == (None, None), "types must be equal, so `Pool | None` is not Pool"
        assert len(parts) == 2


async def test_names_that_are_defined_later(log: Log):
    """The annotation of a thing may name a type that is defined after the handler, or the factory."""
    mesh = Mesh("shop")

    @mesh.actor
    async def bill(order: Order, cache: "Cache") -> str:
        return type(cache).__name__ + type(cache.parts[0]).__name__

    def open_cache(store: "Store") -> AbstractAsyncContextManager[Any]:
        return log.thing(Cache, store)

    class Cache(Thing): ...

    class Store(Thing): ...

    mesh.provide(Cache, open_cache)
    mesh.provide(Store, partial(log.thing, Store))
    async with mesh:
        assert await bill.ask(Order(1)) == "CacheStore"


async def test_what_nobody_provides_names_the_chain(log: Log):
    """The start fails with who asks for it, through what, and the mend; nothing has been opened."""
    mesh = Mesh("shop")

    def open_pool(settings: Settings) -> AbstractAsyncContextManager[Pool]:
        return log.thing(Pool, settings)

    mesh.provide(Mailer, partial(log.thing, Mailer))
    mesh.provide(Pool, open_pool)
    with pytest.raises(
        InvalidHandler, match=r"^Pool needs Settings, which nobody provides: mesh\.provide\(Settings, factory\)$"
    ):
        await mesh.__aenter__()

    @mesh.actor
    async def bill(order: Order, pool: Pool) -> None: ...

    text = r"^actor 'bill' needs Pool, which needs Settings, which nobody provides: mesh\.provide\(Settings, factory\)$"
    with pytest.raises(InvalidHandler, match=text):
        await mesh.__aenter__()
    assert log.lines == []
    assert mesh._engine.ground.phase is Phase.NEW
    mesh.provide(Settings, partial(log.thing, Settings))
    async with mesh:
        await bill.ask(Order(1))


async def test_things_that_need_each_other(log: Log):
    """A ring fails at the start, naming it."""
    mesh = Mesh("shop")

    def open_pool(settings: Settings) -> AbstractAsyncContextManager[Pool]:
        return log.thing(Pool, settings)

    def open_settings(pool: Pool) -> AbstractAsyncContextManager[Settings]:
        return log.thing(Settings, pool)

    mesh.provide(Pool, open_pool)
    mesh.provide(Settings, open_settings)
    with pytest.raises(InvalidHandler, match="need each other: Pool -> Settings -> Pool;"):
        await mesh.__aenter__()
    assert log.lines == []


async def test_replaced_until_the_start(log: Log):
    """A test's factory, or the thing itself, takes the place of what is declared; then nothing asks for what that needed."""
    mesh = Mesh("shop")
    fake = Mailer()

    def open_pool(settings: Settings) -> AbstractAsyncContextManager[Pool]:
        return log.thing(Pool, settings)

    mesh.provide(Pool, open_pool)
    mesh._engine.providing.replace({Pool: partial(log.thing, Pool), Mailer: fake})

    @mesh.actor
    async def bill(order: Order, pool: Pool, mailer: Mailer) -> Any:
        return pool.parts, mailer

    async with mesh:
        assert await bill.ask(Order(1)) == ((), fake)
        with pytest.raises(PreconditionFailed, match="mesh 'shop' is running, and opens what is provided when it starts"):
            mesh._engine.providing.replace({Pool: fake})


async def test_declared_while_the_mesh_runs(log: Log):
    """An actor declared then gets what is open; what is not cannot be opened any more, and both say so."""
    mesh = Mesh("shop")
    mesh.provide(Pool, partial(log.thing, Pool))

    async def with_pool(order: Order, pool: Pool) -> str:
        return type(pool).__name__

    async def with_mailer(order: Order, mailer: Mailer) -> None: ...

    async def late(order: Order, thing: "Late") -> str:  # pyright: ignore[reportInvalidTypeForm] - on purpose
        return type(thing).__name__

    async with mesh:
        assert await mesh.actor(with_pool).ask(Order(1)) == "Pool"
        with pytest.raises(InvalidHandler, match="actor 'with_mailer' needs Mailer, which nobody provides"):
            mesh.actor(with_mailer)
        assert "with_mailer" not in mesh.topology().json()
        with pytest.raises(PreconditionFailed, match="provide Mailer before that"):
            mesh.provide(Mailer, partial(log.thing, Mailer))
        actor = mesh.actor(late)
        Late = Pool  # noqa: N806 - a type's name
        assert await actor.ask(Order(1)) == "Pool"


def _no_annotation(settings): ...
def _stranger(settings: "Settings", /) -> AbstractAsyncContextManager[Pool]: ...
async def _coroutine() -> Pool:
    return Pool()


async def _generator() -> AsyncGenerator[Pool]:
    yield Pool()


@pytest.mark.parametrize(
    "kind, factory, text",
    [
        (Pool, _no_annotation, "does not say what 'settings' is: annotate it with the type of a provided thing"),
        (Pool, _stranger, "takes 'settings' by position only"),
        (Pool, _coroutine, "factory of Pool must give an async context manager"),
        (Pool, _generator, "does not: decorate it with contextlib.asynccontextmanager"),
        (Pool, Pool(), "factory of Pool must give an async context manager"),
        ("Pool", _generator, "'Pool' cannot be provided: give a type"),
        ([], _generator, "cannot be provided: give a type"),
    ],
)
def test_factories_that_are_none(kind: Any, factory: Any, text: str):
    """What cannot be a factory is refused where it is provided."""
    with pytest.raises(InvalidHandler, match=text):
        Mesh("shop").provide(kind, factory)


async def test_a_factory_that_gives_no_context_manager():
    """It is found when it is called, and the mesh does not start."""
    mesh = Mesh("shop")
    mesh.provide(Pool, Pool)  # pyright: ignore[reportArgumentType] - on purpose
    with pytest.raises(InvalidHandler, match="factory of Pool gave Pool, which is no async context manager"):
        await mesh.__aenter__()


async def test_provided_twice(log: Log):
    """Equally again does nothing; differently is refused, naming the mend."""
    mesh = Mesh("shop")
    mesh.provide(Pool, log.thing)
    mesh.provide(Pool, log.thing)
    with pytest.raises(PreconditionFailed, match=r"Pool is provided in mesh 'shop' already: replace it with"):
        mesh.provide(Pool, partial(log.thing, Pool))


# What fails


async def test_a_factory_that_fails_at_opening(log: Log):
    """What was open is closed, the error leaves the start bare, and the mesh can be entered when it is mended."""
    mesh, fails = Mesh("shop"), [True]
    mesh.provide(Settings, partial(log.thing, Settings))
    mesh.provide(Pool, lambda: log.thing(Pool, opening=bool(fails)))
    mesh.provide(Mailer, partial(log.thing, Mailer))
    with pytest.raises(OSError, match="Pool does not open"):
        async with mesh:
            pytest.fail("it must not start")
    assert log.lines == ["open Settings", "close Settings"]
    fails.clear()
    async with mesh:
        pass
    assert log.lines[2:5] == ["open Settings", "open Pool", "open Mailer"]


async def test_a_failure_at_opening_and_one_at_closing(log: Log):
    """Both leave the start, in a group."""
    mesh = Mesh("shop")
    mesh.provide(Settings, partial(log.thing, Settings, closing=True))
    mesh.provide(Pool, partial(log.thing, Pool, opening=True))
    with pytest.raises(ExceptionGroup) as caught:
        await mesh.__aenter__()
    assert [str(error) for error in caught.value.exceptions] == ["Pool does not open", "Settings does not close"]


async def test_one_that_fails_at_closing(log: Log):
    """Its error leaves the mesh bare, and the others are closed all the same; several errors leave it in a group."""
    mesh = Mesh("shop")
    mesh.provide(Settings, partial(log.thing, Settings))
    mesh.provide(Pool, partial(log.thing, Pool, closing=True))
    mesh.provide(Mailer, partial(log.thing, Mailer))
    with pytest.raises(OSError, match="Pool does not close"):
        async with mesh:
            pass
    assert log.lines[3:] == ["close Mailer", "close Pool", "close Settings"]
    with pytest.raises(ExceptionGroup) as caught:
        async with mesh:
            raise ValueError("the body's own")
    assert [str(error) for error in caught.value.exceptions] == ["the body's own", "Pool does not close"]
    assert log.lines[9:] == ["close Mailer", "close Pool", "close Settings"]


async def test_closed_normally_whatever_ended_the_mesh(log: Log):
    """A thing does not see the body's error, which is never swallowed by one."""
    mesh, seen = Mesh("shop"), list[BaseException | None]()

    class Watching:
        async def __aenter__(self) -> Pool:
            return Pool()

        async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
            seen.append(error)
            return True

    mesh.provide(Pool, Watching)
    with pytest.raises(ValueError, match="the body's own"):
        async with mesh:
            raise ValueError("the body's own")
    assert seen == [None]


async def test_a_task_group_inside_a_thing():
    """Its tasks run while the mesh does; a failure of one stops the mesh, and leaves it as that group raised it."""
    mesh, lines = Mesh("shop"), list[str]()

    async def beat(fails: bool) -> None:
        await anyio.sleep(5)
        lines.append("beat")
        if fails:
            raise OSError("no pulse")

    fails = [False]

    @asynccontextmanager
    async def open_pool() -> AsyncGenerator[Pool]:
        async with anyio.create_task_group() as group:
            group.start_soon(beat, fails[0])
            yield Pool()
            lines.append("closing")
            group.cancel_scope.cancel()

    mesh.provide(Pool, open_pool)
    async with mesh:
        await anyio.sleep(10)
    assert lines == ["beat", "closing"]
    fails[0] = True
    with pytest.raises(ExceptionGroup) as caught:
        async with mesh:
            await anyio.sleep_forever()
    assert [str(error) for error in caught.value.exceptions] == ["no pulse"]
    assert mesh._engine.ground.phase is Phase.STOPPED


async def test_a_limit_inside_a_thing_ends_the_mesh():
    """A cancel scope of a thing nests around the mesh as it is written: what it cancels ends where it ends."""
    mesh, ended = Mesh("shop"), list[float]()

    @asynccontextmanager
    async def open_pool() -> AsyncGenerator[Pool]:
        with anyio.move_on_after(5):
            yield Pool()
        ended.append(anyio.current_time())

    mesh.provide(Pool, open_pool)
    began = anyio.current_time()
    async with mesh:
        await anyio.sleep_forever()
    assert ended == [began + 5]
    await anyio.sleep(1)


class Guarding:
    """Things with scopes of their own, and one that takes ten seconds to open after them."""

    @asynccontextmanager
    async def group(self) -> AsyncGenerator[Settings]:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            yield Settings()
            group.cancel_scope.cancel()

    @asynccontextmanager
    async def failing(self) -> AsyncGenerator[Settings]:
        async def fail() -> None:
            await anyio.sleep(5)
            raise OSError("no pulse")

        async with anyio.create_task_group() as group:
            group.start_soon(fail)
            yield Settings()

    @asynccontextmanager
    async def limited(self) -> AsyncGenerator[Settings]:
        with anyio.move_on_after(5):
            yield Settings()

    @asynccontextmanager
    async def slow(self) -> AsyncGenerator[Pool]:
        await anyio.sleep(10)
        yield Pool()


async def test_one_that_ends_while_the_next_is_opened():
    """Its error leaves the start; one that just ends is an error as well; and a cancellation from outside stays one."""
    guarding = Guarding()

    def meshed(settings: Callable[[], AbstractAsyncContextManager[Settings]]) -> Mesh:
        mesh = Mesh("shop")
        mesh.provide(Settings, settings)
        mesh.provide(Pool, guarding.slow)
        return mesh

    with pytest.raises(ExceptionGroup) as caught:
        await meshed(guarding.failing).__aenter__()
    assert [str(error) for error in caught.value.exceptions] == ["no pulse"]
    with pytest.raises(RuntimeError, match="mesh 'shop' could not start: a provided thing has ended by itself meanwhile"):
        await meshed(guarding.limited).__aenter__()
    began = anyio.current_time()
    with anyio.move_on_after(3) as scope:
        await meshed(guarding.group).__aenter__()
    assert scope.cancelled_caught
    assert anyio.current_time() == began + 3
    await anyio.sleep(20)


async def test_cancelled_anywhere(log: Log):
    """Wherever entering, leaving or the body is cancelled: what was open is closed, and the mesh can be entered again."""
    mesh = Mesh("shop")
    chain_of(mesh, log)

    @mesh.actor
    async def bill(order: Order, pool: Pool) -> None:
        await anyio.sleep(1)

    async def run() -> None:
        log.lines.clear()
        async with mesh:
            await bill.ask(Order(1))

    async def check(swept: Swept[None]) -> None:
        opened = [line.removeprefix("open ") for line in log.lines if line.startswith("open")]
        closed = [line.removeprefix("close ") for line in log.lines if line.startswith("close")]
        assert closed == opened[::-1]
        assert mesh._engine.ground.phase in (Phase.NEW, Phase.STOPPED)
        assert mesh._engine.providing.things == {}

    assert await cancel_sweep(run, check) > 4


async def test_opened_and_closed_by_the_task_that_enters():
    """One task does both, also when somebody else stops the mesh."""
    mesh, tasks = Mesh("shop"), list[int]()

    @asynccontextmanager
    async def open_pool() -> AsyncGenerator[Pool]:
        tasks.append(anyio.get_current_task().id)
        yield Pool()
        tasks.append(anyio.get_current_task().id)

    mesh.provide(Pool, open_pool)

    @mesh.actor
    async def bill(order: Order, pool: Pool) -> None:
        mesh.stop()

    async with mesh:
        await bill.tell(Order(1))
        await anyio.sleep(1)
    assert tasks == [anyio.get_current_task().id] * 2


async def test_a_class_is_given_things_too(log: Log):
    """`__init__` and the methods of a class actor get them by type; those with a default only what is provided."""
    mesh = Mesh("shop")
    chain_of(mesh, log)

    class Bills:
        def __init__(self, pool: Pool, limit: int = 5, *, mailer: Mailer) -> None:
            self.things = (pool, limit, mailer)

        @on
        async def bill(self, order: Order, settings: Settings) -> Any:
            return (*self.things, settings)

    bills = mesh.actor(Bills)
    async with mesh:
        pool, limit, mailer, settings = await bills.ask(Order(1))
    assert limit == 5
    assert mailer.parts == (pool, settings)

    class Wrong:
        def __init__(self, missing: Mapping[str, Callable[..., Any]]) -> None: ...

        @on
        async def bill(self, order: Order) -> None: ...

    mesh.actor(Wrong)
    with pytest.raises(InvalidHandler, match=r"actor 'Wrong' needs .*Mapping\[.*, which nobody provides"):
        await mesh.__aenter__()
