"""What users put around handlers and who listens, as both checkers see it. Checked, never run."""

from collections.abc import Awaitable, Callable
from typing import Any, assert_type

from flowmesh import CallNext, CommitSummary, Context, Mesh, Message, Middleware, Observer


async def timing(ctx: Context, call_next: CallNext) -> object:
    ctx.log.info("%s", ctx.attempt)
    return await call_next()


async def with_a_callable(ctx: Context, call_next: Callable[[], Awaitable[object]]) -> object:
    return await call_next()


class Counting:
    async def __call__(self, ctx: Context, call_next: CallNext) -> object:
        assert_type(await call_next(), Any)
        return None


def not_a_coroutine(ctx: Context, call_next: CallNext) -> object:
    return None


async def one_parameter(ctx: Context) -> object:
    return None


layers: list[Middleware] = [timing, Counting()]
mesh = Mesh("shop", middleware=(timing, with_a_callable, *layers))


@mesh.actor(middleware=[timing])
async def charge(order: int) -> str:
    return str(order)


async def middleware_leaves_the_types_alone() -> None:
    assert_type(await charge.ask(1), str)


# Refused

Mesh("shop", middleware=(not_a_coroutine,))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Mesh("shop", middleware=(one_parameter,))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Mesh("shop", middleware=timing)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class Ends(Observer):
    """Subclassed: only the points that it wants."""

    def settled(self, message: Message, mailbox: str, *, outcome: str) -> None: ...
    def committed(self, summary: CommitSummary) -> None:
        assert_type(summary.entered, int)


class AllOfThem:
    """No subclass: all points, structurally."""

    def entered(self, message: Message, mailbox: str) -> None: ...
    def handed_out(self, message: Message, mailbox: str, *, actor: str | None, attempt: int) -> None: ...
    def settled(self, message: Message, mailbox: str, *, outcome: str) -> None: ...
    def dead(self, message: Message, mailbox: str, *, reason: str, detail: str) -> None: ...
    def retried(self, message: Message, mailbox: str, *, attempt: int, delay: float) -> None: ...
    def postponed(self, message: Message, mailbox: str, *, actor: str, state: str) -> None: ...
    def resumed(self, message: Message, mailbox: str) -> None: ...
    def committed(self, summary: CommitSummary) -> None: ...


Mesh("shop", observers=(Ends(), AllOfThem()))

# Refused

Mesh("shop", observers=(timing,))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class Wrong(Observer):
    def entered(self, message: Message) -> None: ...  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
