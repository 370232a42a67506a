"""The hooks of a class actor: what its keeper enters and leaves around an instance.

Either `lifespan(self[, ctx])`, an async context manager, or `on_start(self[, ctx])` and `on_stop(self[, ctx])`, or one of
the two.  An instance whose `on_start` has failed is not stopped.
"""

import inspect
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from flowmesh.errors import InvalidHandler

__all__ = ["Hooks", "hooks_of"]

Hooks = Callable[[Any, object], AbstractAsyncContextManager[Any]]
"""Gives what is entered and left around an instance, which sees this ActorContext."""


def hooks_of(kind: type[Any]) -> Hooks | None:
    """Return the hooks of a class, or None if it has none.

    Raises:
        InvalidHandler: they cannot be used.
    """
    found = {name: getattr(kind, name) for name in ("lifespan", "on_start", "on_stop") if callable(getattr(kind, name, None))}
    place = f"class {kind.__module__}.{kind.__qualname__}"
    takes = {name: _takes_context(place, name, method) for name, method in found.items()}
    lifespan = found.get("lifespan")
    if lifespan is not None:
        if len(found) > 1:
            raise InvalidHandler(f"{place} has a lifespan and {' and '.join(list(found)[1:])}: write one or the other")
        if inspect.isasyncgenfunction(lifespan) or inspect.iscoroutinefunction(lifespan):
            raise InvalidHandler(
                f"lifespan of {place} must be an async context manager: decorate it with contextlib.asynccontextmanager "
                "and let it yield once"
            )
        return lambda instance, context: instance.lifespan(*((context,) if takes["lifespan"] else ()))
    for name, method in found.items():
        if not inspect.iscoroutinefunction(method):
            raise InvalidHandler(f"{name} of {place} must be written as: async def {name}(self, ctx: ActorContext) -> None")
    return _starting_and_stopping(takes) if found else None


def _takes_context(place: str, name: str, method: Callable[..., Any]) -> bool:
    parameters = list(inspect.signature(method).parameters.values())[1:]
    if len(parameters) > 1 or any(one.kind not in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD) for one in parameters):
        raise InvalidHandler(f"{name} of {place} takes (self) or (self, ctx: ActorContext), and nothing else")
    return bool(parameters)


def _starting_and_stopping(takes: Mapping[str, bool]) -> Hooks:
    @asynccontextmanager
    async def around(instance: Any, context: object) -> AsyncGenerator[None]:
        if "on_start" in takes:
            await instance.on_start(*((context,) if takes["on_start"] else ()))
        try:
            yield
        finally:
            if "on_stop" in takes:
                await instance.on_stop(*((context,) if takes["on_stop"] else ()))

    return around
