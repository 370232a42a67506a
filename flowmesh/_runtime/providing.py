"""Provided things: what handlers and class actors are given by type; opened before the actors, closed after the drain.

All that is provided is opened when the mesh starts, each thing after what its factory asks for, once per run, and closed in
reverse; both in the task that enters and leaves the mesh.  A thing is closed normally whatever ended the mesh; only a
cancellation is passed on to it, since its own scopes must see theirs.
"""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Final, cast

import anyio
from msgspec import Struct

from flowmesh._runtime.cancellation import without_cancellation
from flowmesh._runtime.ground import Ground, Phase
from flowmesh._runtime.signature import Annotations, Needs, can_be_key, locals_of_caller, missing, named
from flowmesh.errors import InvalidHandler, PreconditionFailed

__all__ = ["Factory", "Provider", "Providing"]

Factory = Callable[..., AbstractAsyncContextManager[Any]]

_MEND: Final = "a factory takes nothing but provided things, by their types"


class Provider(Struct, frozen=True):
    """A factory, and what it asks for."""

    factory: Factory
    needs: Needs


class Providing:
    """The provided things of one mesh.

    `things`: those that are open, by type. `replaced`: what is provided instead of what is declared.
    """

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._providers: dict[Any, Provider] = {}
        self.replaced: dict[Any, Provider] = {}
        self._open: list[AbstractAsyncContextManager[Any]] = []
        self.things: dict[Any, Any] = {}

    def add(self, kind: Any, factory: Factory, *, depth: int = 2) -> Provider:
        """Make a factory known; equally again does nothing. `depth`: whose local names its annotations may use.

        Raises:
            PreconditionFailed: another factory provides this type, or the mesh runs.
            InvalidHandler: the factory's signature cannot be used.
        """
        known = self._providers.get(kind) if can_be_key(kind) else None
        provider = known if known is not None and known.factory == factory else _read(kind, factory, depth + 1)
        self.check(kind, provider)
        self.take(kind, provider)
        return provider

    def check(self, kind: Any, provider: Provider) -> None:
        """Refuse a provider that `take` must not be given.

        Raises:
            PreconditionFailed: another factory provides this type, or the mesh runs.
        """
        known = self._providers.get(kind)
        if known is not None and known.factory == provider.factory:
            return
        if known is not None:
            raise PreconditionFailed(
                f"{named(kind)} is provided in {self._ground.label} already: replace it with "
                "mesh.configure(provide={...}), or give the other thing a type of its own"
            )
        self._check_phase(kind)

    def take(self, kind: Any, provider: Provider) -> None:
        """Make a provider known, unless an equal one is."""
        self._providers.setdefault(kind, provider)

    def replace(self, things: Mapping[Any, Any]) -> None:
        """Provide these instead of what is, or will be, declared.

        Each is a factory (a function or a class that is not the type itself), or else the thing itself, of whatever type.

        Raises:
            PreconditionFailed: the mesh runs.
            InvalidHandler: a factory's signature cannot be used.
        """
        read: dict[Any, Provider] = {}
        for kind, thing in things.items():
            self._check_phase(kind)
            is_factory = inspect.isroutine(thing) or inspect.isclass(thing) or isinstance(thing, functools.partial)
            is_thing = not is_factory or (isinstance(kind, type) and isinstance(thing, kind))
            read[kind] = Provider(functools.partial(nullcontext[Any], thing), _none()) if is_thing else _read(kind, thing, 3)
        self.replaced.update(read)

    def plan(self, demands: Iterable[tuple[str, Iterable[Any]]]) -> list[Any]:
        """Return the types in the order in which they have to be opened.

        Args:
            demands: names of actors, each with the types that it asks for.

        Raises:
            InvalidHandler: somebody asks for what nobody provides, or things need each other; the text names the chain.
        """
        providers = {**self._providers, **self.replaced}
        order: dict[Any, None] = {}
        for provider in providers.values():
            provider.needs.resolve()
        for name, kinds in demands:
            for kind in kinds:
                _visit(providers, kind, [f"actor {name!r}"], {})
        for kind in providers:
            _visit(providers, kind, [], order)
        return list(order)

    async def open(self, order: Iterable[Any]) -> None:
        """Open them all.

        Cancellation: closes what was open already.

        Raises:
            BaseException: what a factory failed with, bare; what was open already has been closed. A group if more failed.
        """
        providers = {**self._providers, **self.replaced}
        try:
            for kind in order:
                provider = providers[kind]
                manager = provider.factory(**provider.needs.given(self.things))
                if not hasattr(manager, "__aenter__"):
                    raise InvalidHandler(
                        f"factory of {named(kind)} gave {type(manager).__qualname__}, which is no async context manager: "
                        "decorate it with contextlib.asynccontextmanager"
                    )
                thing = await manager.__aenter__()
                self._open.append(manager)
                self.things[kind] = thing
        except BaseException as error:
            is_cancellation = isinstance(without_cancellation(error), anyio.get_cancelled_exc_class())
            cancellation, failures = await self.close(error if is_cancellation else None)
            if not is_cancellation:
                failures.insert(0, error)
            if len(failures) > 1:
                raise BaseExceptionGroup(f"mesh {self._ground.name!r} could not start", failures) from None
            if failures and failures[0] is not error:
                raise failures[0] from failures[0].__cause__
            if is_cancellation and cancellation is None:
                ended = f"mesh {self._ground.name!r} could not start: a provided thing has ended by itself meanwhile"
                raise RuntimeError(ended) from None
            if cancellation is not None and cancellation is not error:
                raise cancellation from None
            raise

    async def close(self, cancellation: BaseException | None) -> tuple[BaseException | None, list[BaseException]]:
        """Close what is open, the last opened first; one that fails does not keep the others from it.

        Cancellation: closes the others all the same; it is among what is returned.

        Args:
            cancellation: what is on its way out of the mesh.

        Returns:
            the cancellation that is still on its way, and what failed.
        """
        failures: list[BaseException] = []
        while self._open:
            manager = self._open.pop()
            try:
                if cancellation is None:
                    await manager.__aexit__(None, None, None)
                elif await manager.__aexit__(type(cancellation), cancellation, cancellation.__traceback__):
                    cancellation = None
            except BaseException as error:  # noqa: BLE001 - told to the caller, when the others are closed
                rest = without_cancellation(error)
                if isinstance(rest, anyio.get_cancelled_exc_class()):
                    cancellation = error
                else:
                    cancellation = None  # It came out instead.
                    failures.append(rest)
        self.things = {}
        return cancellation, failures

    def _check_phase(self, kind: Any) -> None:
        if self._ground.phase not in (Phase.NEW, Phase.STOPPED):
            raise PreconditionFailed(
                f"mesh {self._ground.name!r} {self._ground.phase.value}, and opens what is provided when it starts: "
                f"provide {named(kind)} before that"
            )


def _none() -> Needs:
    return Needs(Annotations(nullcontext, {}, what="factory"), None, _MEND)


def _read(kind: Any, factory: Any, depth: int) -> Provider:
    if not can_be_key(kind) or isinstance(kind, str):
        raise InvalidHandler(f"{kind!r} cannot be provided: give a type")
    if not callable(factory) or inspect.iscoroutinefunction(factory) or inspect.isasyncgenfunction(factory):
        mend = ""
        if inspect.isasyncgenfunction(factory):
            mend = ": decorate it with contextlib.asynccontextmanager"
        elif not callable(factory):
            mend = ": give a factory, for what is there already lambda: contextlib.nullcontext(thing)"
        raise InvalidHandler(f"factory of {named(kind)} must give an async context manager, and {factory!r} does not{mend}")
    annotations = Annotations(factory, locals_of_caller(depth), what="factory")
    needs = Needs(annotations, None, _MEND)
    for parameter in annotations.parameters(_MEND):
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            needs.add(parameter)
    if not needs.pending:
        annotations.forget()
    return Provider(cast("Factory", factory), needs)


def _visit(providers: Mapping[Any, Provider], kind: Any, path: list[Any], order: dict[Any, None]) -> None:
    """Put a type into the order after all that it needs; `path`: who asks for it, the last one directly."""
    chain = [*path, kind]
    if not _is_in(kind, providers):
        raise missing(chain)
    if kind in order:
        return
    if kind in path:
        ring = " -> ".join(one if isinstance(one, str) else named(one) for one in chain[path.index(kind) :])
        raise InvalidHandler(f"provided things need each other: {ring}; let one of their factories do without the other")
    needs = providers[kind].needs
    for need in needs.things.values():
        if need in needs.required or _is_in(need, providers):
            _visit(providers, need, chain, order)
    order[kind] = None


def _is_in(kind: Any, known: Mapping[Any, Any]) -> bool:
    return can_be_key(kind) and kind in known
