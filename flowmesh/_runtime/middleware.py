"""Middleware: what runs around every handler call, composed when the mesh starts.

    async def timing(ctx: Context, call_next: CallNext) -> object:
        began = time.perf_counter()
        try:
            return await call_next()
        finally:
            ctx.log.info("%.3f s", time.perf_counter() - began)

A layer calls `call_next()` once or not at all, and awaits it in its own task; it may hand on the Context that it was given
(`call_next(ctx)`, as other frameworks have it), and no other.  It gives what the handler (or the next layer) returned, or
raises what that raised.  What the layer itself returns or raises is the outcome of the turn: without a call the handler is
skipped, and the message is done.  The mesh's layers stand around an actor's own; in each list the first is the outermost.
All of it runs inside the turn: the handler's time limit, its cancellation and its Context are theirs.  A layer that could
leave the handler running behind its back, or run it twice, gets an error instead.
"""

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Protocol

from flowmesh._runtime.context import Context
from flowmesh.errors import InvalidHandler

__all__ = ["CallNext", "Chain", "Middleware", "checked_middleware", "compose_layers"]


class CallNext(Protocol):
    """Calls the next layer, or the handler, of a turn: `await call_next()`, or `await call_next(ctx)`; once at most."""

    def __call__(self, ctx: Context | None = None, /) -> Awaitable[Any]:
        """Return what is to be awaited: it gives the handler's result, or raises what the handler raised.

        Args:
            ctx: the turn's Context, or nothing.

        Raises:
            InvalidHandler: it has been called before in this turn, or its layer has returned, or with something else.
        """
        ...


Middleware = Callable[[Context, CallNext], Awaitable[object]]
"""One layer: `async def (ctx, call_next) -> object`; what it returns is the turn's result."""

Handle = Callable[[], Awaitable[Any]]
Chain = Callable[[Context, Handle], Coroutine[Any, Any, Any]]
"""All layers of an actor: called with a turn's Context and what calls its handler."""


def compose_layers(layers: Sequence[Middleware]) -> Chain | None:
    """Return one call for all layers, the first outermost; None if there is none."""
    chain: Chain | None = None
    for layer in reversed(layers):
        chain = _around(layer, _innermost if chain is None else chain)
    return chain


async def _innermost(context: Context, handle: Handle) -> Any:
    return await handle()


def _around(layer: Middleware, inner: Chain) -> Chain:
    async def run(context: Context, handle: Handle) -> Any:
        following = _Next(layer, inner, context, handle)
        try:
            result = await layer(context, following)
        finally:
            is_over = following.close()
        if not is_over:
            raise InvalidHandler(
                f"middleware {_name(layer)} returned before its call_next() had ended: write 'await call_next()', in the task "
                "of the middleware itself"
            )
        return result

    return run


class _Next:
    """One layer's `call_next` in one turn."""

    __slots__ = ("_context", "_coroutine", "_handle", "_has_ended", "_inner", "_is_closed", "_layer")

    def __init__(self, layer: Middleware, inner: Chain, context: Context, handle: Handle) -> None:
        self._layer = layer
        self._inner = inner
        self._context = context
        self._handle = handle
        self._coroutine: Coroutine[Any, Any, Any] | None = None
        self._has_ended = False
        self._is_closed = False

    def __call__(self, ctx: Context | None = None, /) -> Awaitable[Any]:
        """Give the one call of this turn."""
        if ctx is not None and ctx is not self._context:
            raise InvalidHandler(
                f"middleware {_name(self._layer)} called call_next with {ctx!r}: a turn has one Context; call it with that, or "
                "with nothing"
            )
        if self._is_closed:
            raise InvalidHandler(
                f"middleware {_name(self._layer)} has returned: its call_next cannot be called for message "
                f"{self._context.message.id} any more"
            )
        if self._coroutine is not None:
            raise InvalidHandler(
                f"middleware {_name(self._layer)} called call_next twice for message {self._context.message.id}: a turn calls "
                "its handler once; raise, and let retry= repeat the turn"
            )
        self._coroutine = self._run()
        return self._coroutine

    async def _run(self) -> Any:
        try:
            return await self._inner(self._context, self._handle)
        finally:
            self._has_ended = True

    def close(self) -> bool:
        """Allow no call from now on; False if one was begun and has not ended."""
        self._is_closed = True
        if self._coroutine is None or self._has_ended:
            return True
        if inspect.getcoroutinestate(self._coroutine) == inspect.CORO_CREATED:
            self._coroutine.close()  # Nobody will await it; an error says so, better than a warning.
        return False


def checked_middleware(layers: object) -> tuple[Middleware, ...]:
    """Return the layers, once it is certain that each can be called as one.

    Raises:
        TypeError: it is no sequence of layers.
        InvalidHandler: one is no coroutine function of two parameters; names it.
    """
    if not isinstance(layers, Sequence) or isinstance(layers, str | bytes):
        raise TypeError(f"middleware must be a sequence of functions, not {layers!r}: write middleware=(one,)")
    found: tuple[Any, ...] = tuple(layers)  # pyright: ignore[reportUnknownArgumentType,reportUnknownVariableType] - checked here
    for layer in found:
        _check(layer)
    return found


def _check(layer: Any) -> None:
    mend = f"write it as: async def {getattr(layer, '__name__', 'layer')}(ctx: Context, call_next: CallNext) -> object"
    if inspect.isclass(layer):
        raise InvalidHandler(f"middleware {_name(layer)} is a class: give an instance with an async def __call__, or {mend}")
    target = layer
    while isinstance(target, functools.partial):
        target = target.func
    if not inspect.isroutine(target) and callable(target):
        target = type(target).__call__
    if not inspect.iscoroutinefunction(target):
        raise InvalidHandler(f"middleware {_name(layer)} is no coroutine function: {mend}")
    try:
        inspect.signature(layer).bind(None, None)
    except TypeError as error:
        raise InvalidHandler(f"middleware {_name(layer)} cannot be called with (ctx, call_next): {error}; {mend}") from error


def _name(layer: Any) -> str:
    return str(getattr(layer, "__qualname__", None) or repr(layer))
