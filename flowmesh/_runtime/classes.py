"""A class actor: the class read once, where it is declared, and its methods dispatched by message type.

`@on` marks the methods that take messages.  A message goes to the method of its own class, or of the nearest class in its
MRO.  Each type has exactly one method; inherited ones count, and what overrides one takes its place.  The rest is as for
functions: annotations, injected parameters, plain `def` methods in a worker thread.
"""

import functools
import inspect
import sys
import typing
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Never, TypeVar, cast

import anyio
import anyio.to_thread

from flowmesh._core.machines import Response
from flowmesh._runtime.handler import Handler, Nothing, convert
from flowmesh._runtime.hooks import hooks_of
from flowmesh._runtime.marks import mark_of, marked
from flowmesh._runtime.signature import Annotations, Needs, named
from flowmesh.errors import InvalidHandler

__all__ = ["ClassHandler", "Method", "in_thread", "nearest"]

_MEND: Final = "a method takes (self, message: Type), and Context and provided things by their types"
_MEND_INIT: Final = "a class actor is given provided things, by their types"
_MAX_CACHED: Final = 1000
"""Subclasses of message types whose method is remembered; the others are looked up each time."""


class Method:
    """One method that takes messages: what it takes (as of a handler), and where it is found."""

    def __init__(self, name: str, handler: Handler) -> None:
        self.name = name
        self.handler = handler

    def types(self) -> list[Any]:
        """The classes whose messages it takes."""
        kinds: Any = self.handler.accepts
        found = cast("tuple[Any, ...]", kinds) if isinstance(kinds, tuple) else (kinds,)
        return list(dict.fromkeys(found))


class ClassHandler:
    """A class and what its methods take; the same face as a Handler.

    `hooks`: what its keeper enters and leaves around an instance; None when it needs no keeper.
    """

    takes_body = True
    is_async = True
    is_machine = False
    """Its methods are dispatched by state, too."""
    postpones = False
    """Some messages wait for a change of state."""
    has_timeouts = False
    """Some states end by themselves after a while."""
    limit = 0
    """Messages that wait so at once, of each instance."""
    leaves_with_asker = False
    """A handler cancelled half-way would leave its instance in a state that nobody has written."""

    def __init__(self, kind: type[Any], injected: type, local_names: Mapping[str, Any]) -> None:
        self.kind = kind
        self.name = kind.__name__
        nested = {name: thing for name, thing in vars(kind).items() if isinstance(thing, type)}
        names: Mapping[str, Any] = ChainMap(nested, cast("Any", local_names)) if nested else local_names
        self._place = f"{kind.__module__}.{kind.__qualname__}"
        self._annotations, self._needs = _read_init(kind, names)
        self.methods = {name: Method(name, self._read(name, injected, names)) for name in marked(kind)}
        if not self.methods:
            raise InvalidHandler(f"class {self._place} has no method that takes messages: decorate them with flowmesh.on")
        self.hooks = hooks_of(kind)
        self._table: dict[type, Method] = {}
        self.accepts: Any = Nothing
        self.body_type: Any = None
        self.context_as: str | None = None
        self.is_resolved = all(method.handler.is_resolved for method in self.methods.values()) and not self._needs.pending
        if self.is_resolved:
            self._tabulate()

    def function(self, *_args: Any, **_options: Any) -> Never:
        """Refuse: an instance handles, not the class.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            f"actor {self.name!r} is a class: construct {self.kind.__name__}(...) and call its methods in a unit test, "
            "or await its tell or ask"
        )

    def _read(self, name: str, injected: type, names: Mapping[str, Any]) -> Handler:
        found = inspect.getattr_static(self.kind, name)
        if not inspect.isfunction(found):
            raise InvalidHandler(f"class {self._place}: {name!r} takes messages, and is no method but {found!r}")
        if mark_of(self.kind, name).names_states and not self.is_machine:
            raise InvalidHandler(f"class {self._place}: {name!r} speaks of states: only a flowmesh.Machine has some")
        handler = Handler(functools.partial(found, None), injected, names)
        if not handler.takes_body:
            raise InvalidHandler(f"class {self._place}: method {name!r} takes no message; {_MEND}")
        return handler

    def resolve(self) -> None:
        """Evaluate the annotations that named something not yet defined.

        Raises:
            NameError: a message's type still does.
            InvalidHandler: as where a class is declared.
        """
        for method in self.methods.values():
            method.handler.resolve()
        self._needs.resolve()
        self._tabulate()
        self.is_resolved = True

    def _tabulate(self) -> None:
        self._annotations.forget()
        table: dict[type, Method] = {}
        for method in self.methods.values():
            for kind in self._kinds_of(method):
                if kind in table:
                    raise InvalidHandler(
                        f"class {self._place}: {table[kind].name!r} and {method.name!r} both take {named(kind)}: "
                        "one method for each type"
                    )
                table[kind] = method
        if float in table:
            table.setdefault(int, table[float])  # as type checkers have it
        self._table = table
        self._take(table)

    def _take(self, table: Mapping[type, Method]) -> None:
        """Take messages of these types."""
        methods = list(self.methods.values())
        self.accepts = next(iter(table)) if len(table) == 1 else tuple(table)
        kinds = [method.handler.body_type for method in methods]
        self.body_type = kinds[0] if len(kinds) == 1 else _union(kinds)
        takers = [method.handler.context_as for method in methods if method.handler.context_as is not None]
        self.context_as = None if not takers else takers[0] if len(methods) == 1 else "context"

    def _kinds_of(self, method: Method) -> Iterator[type]:
        kinds = method.types()
        for kind in kinds:
            if getattr(kind, "_is_protocol", False):
                raise InvalidHandler(
                    f"class {self._place}: method {method.name!r} takes {named(kind)}, a Protocol: messages are "
                    "dispatched by their classes"
                )
            if kind is int and float in kinds and int not in _written(method.handler.body_type):
                continue  # Only as a float: see _tabulate.
            yield kind

    @property
    def wanted(self) -> str:
        """The types of its messages, for an error's text."""
        return " or ".join(dict.fromkeys(method.handler.wanted for method in self.methods.values()))

    @property
    def required(self) -> list[Any]:
        """The types that have to be provided."""
        found = [*self._needs.required]
        for method in self.methods.values():
            found += method.handler.required
        return found

    def convert(self, body: Any) -> Any:
        """Return the body as one of its message types; of several, they must have tags to be told apart.

        Raises:
            MalformedMessage: it cannot be converted.
        """
        return convert(body, self.body_type, actor=self.name)

    def make(self, things: Mapping[Any, Any]) -> Any:
        """Make an instance, with the provided things that it asks for.

        Raises:
            Exception: what the constructor raised.
            RuntimeError: it raised a cancellation. That is its own: nobody can cancel what does not await.
        """
        try:
            return self.kind(**self._needs.given(things))
        except anyio.get_cancelled_exc_class() as error:
            raise RuntimeError(f"the constructor of {self.kind.__qualname__} was cancelled by something inside it") from error

    def bind(self, instance: Any, things: Mapping[Any, Any]) -> Callable[..., Any]:
        """Return what an instance's messages are handled with: the one method itself, or a dispatch by type.

        It is called with the body, and with the Context under the name `context_as` if any method takes it.
        """
        bound = self.calls_of(instance, things, anyio.CapacityLimiter(1))
        if len(bound) == 1:
            return next(iter(bound.values()))
        if self.context_as is None:
            return _dispatch({kind: bound[method.name] for kind, method in self._table.items()})
        return _dispatch_with_context(
            {kind: (bound[method.name], method.handler.context_as) for kind, method in self._table.items()}
        )

    def response_to(self, state: str, body: object) -> Response | None:
        """Return what is done with a message in a state: only a machine's class knows."""
        raise NotImplementedError

    def calls_of(
        self, instance: Any, things: Mapping[Any, Any], limiter: anyio.CapacityLimiter
    ) -> dict[str, Callable[..., Any]]:
        """Return an instance's methods by name, each with the things that it asks for; all are to be awaited."""
        bound: dict[str, Callable[..., Any]] = {}
        for name, method in self.methods.items():
            call = method.handler.needs.bind(getattr(instance, name), things)
            bound[name] = call if method.handler.is_async else in_thread(call, limiter)
        return bound


def _dispatch(table: dict[type, Callable[[Any], Any]]) -> Callable[[Any], Any]:
    exact = dict(table)

    def dispatch(body: object) -> Any:
        kind = type(body)
        call = exact.get(kind)
        if call is None:
            call = nearest(table, kind)
            if len(exact) < _MAX_CACHED:
                exact[kind] = call
        return call(body)

    return dispatch


def _dispatch_with_context(table: dict[type, tuple[Callable[..., Any], str | None]]) -> Callable[..., Any]:
    exact = dict(table)

    def dispatch(body: object, *, context: Any) -> Any:
        kind = type(body)
        found = exact.get(kind)
        if found is None:
            found = nearest(table, kind)
            if len(exact) < _MAX_CACHED:
                exact[kind] = found
        call, name = found
        return call(body) if name is None else call(body, **{name: context})

    return dispatch


Found = TypeVar("Found")


def nearest(table: Mapping[type, Found], kind: type) -> Found:
    """Return what stands for the nearest class in a type's MRO, or for one that it is registered as a subclass of."""
    for base in kind.__mro__:
        if base in table:
            return table[base]
    return next(found for base, found in table.items() if issubclass(kind, base))


def in_thread(call: Callable[..., Any], limiter: anyio.CapacityLimiter) -> Callable[..., Any]:
    """Return what runs a plain method in a worker thread."""

    async def run(*args: Any, **given: Any) -> Any:
        return await anyio.to_thread.run_sync(functools.partial(call, *args, **given), limiter=limiter)

    return run


def _read_init(kind: type[Any], names: Mapping[str, Any]) -> tuple[Annotations, Needs]:
    init = inspect.getattr_static(kind, "__init__")
    if inspect.isfunction(init):
        annotations = Annotations(functools.partial(init, None), names, what="method")
    else:
        annotations = Annotations(kind, names, what="class", more=getattr(sys.modules.get(kind.__module__), "__dict__", {}))
    needs = Needs(annotations, None, _MEND_INIT)
    try:
        parameters = annotations.parameters(_MEND_INIT)
    except InvalidHandler:
        parameters = []  # A constructor of Python's own, as of dict: called without arguments.
    for parameter in parameters:
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            needs.add(parameter)
    return annotations, needs


def _written(annotation: Any) -> tuple[Any, ...]:
    """Return the types that a union names, or the one type."""
    return getattr(annotation, "__args__", (annotation,))


def _union(kinds: list[Any]) -> Any:
    union: Any = typing.Union
    return union[tuple(kinds)]
