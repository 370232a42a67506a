"""The public face of a class actor: an Actor whose messages say themselves what they are answered with."""

from collections.abc import Awaitable, Callable
from typing import Any, Concatenate, Generic, Never, ParamSpec, TypeVar, Unpack, overload

from flowmesh._runtime.actor import Actor
from flowmesh._runtime.cell import Cell
from flowmesh._runtime.classes import ClassHandler
from flowmesh._runtime.composing import OutputOptions
from flowmesh._runtime.engine import Engine
from flowmesh._runtime.exchange import Home
from flowmesh._runtime.handler import Handler
from flowmesh.errors import NotFound, WrongBody
from flowmesh.message import Request

__all__ = ["ClassActor"]

Instance = TypeVar("Instance")
Answer = TypeVar("Answer")
Taken = TypeVar("Taken")
Reply = TypeVar("Reply")
Rest = ParamSpec("Rest")


class ClassActor(Actor[Any, Any], Generic[Instance]):
    """An actor whose handler is an instance of a class: state, and one message at a time. Declare it with `mesh.actor`.

    It takes the types that its methods marked with `on` take. An ask of a `Request[Reply]` gives a `Reply`.
    """

    __slots__ = ("_views",)

    def __init__(self, home: Home | None = None) -> None:
        super().__init__(home)
        self._views: dict[str, Actor[Any, Any]] = {}

    def attach(self, engine: Engine, cell: Cell) -> None:
        """Stand for this actor from now on, and so does what `handler` has returned."""
        super().attach(engine, cell)
        for view in self._views.values():
            view.attach(engine, cell)

    def __call__(self, *_args: Any, **_options: Any) -> Never:
        """Refuse: there is no function to call.

        Raises:
            TypeError: always; in a unit test, construct the class and call its method.
        """
        handler = self.cell.handler
        assert isinstance(handler, ClassHandler)
        handler.function()

    @overload
    async def ask(self, body: Request[Answer], *, timeout: float | None = 30.0, **options: Unpack[OutputOptions]) -> Answer: ...
    @overload
    async def ask(self, body: Any = None, *, timeout: float | None = 30.0, **options: Unpack[OutputOptions]) -> Any: ...
    def ask(self, body: Any = None, *, timeout: float | None = 30.0, **options: Unpack[OutputOptions]) -> Any:
        """Put a question into its mailbox and wait for the answer, as `Actor.ask`.

        Cancellation: the message is withdrawn if it has not started; if it has, its handler runs on.
        """
        return super().ask(body, timeout=timeout, **options)

    @overload
    def handler(self, method: Callable[[Instance, Taken], Awaitable[Reply]], /) -> Actor[Taken, Reply]: ...
    @overload
    def handler(self, method: Callable[Concatenate[Instance, Taken, Rest], Awaitable[Reply]], /) -> Actor[Taken, Reply]: ...
    @overload
    def handler(self, method: Callable[Concatenate[Instance, Taken, Rest], Reply], /) -> Actor[Taken, Reply]: ...
    def handler(self, method: Callable[..., Any], /) -> Any:
        """Return the actor as one that takes the messages of one method only: `totals.handler(Totals.total)`.

        It is the same actor, with the same mailbox; only what `tell` and `ask` take is narrower, and their types are static.

        Args:
            method: one of the class's methods that are marked with `on`.

        Raises:
            NotFound: it is none of them.
        """
        handler = self.cell.handler
        assert isinstance(handler, ClassHandler)
        found = handler.methods.get(getattr(method, "__name__", ""))
        if found is None or getattr(handler.kind, found.name) is not method:
            raise NotFound(f"{method!r} is no method of actor {self.name!r} that takes messages: mark it with flowmesh.on")
        if found.name not in self._views:
            self._views[found.name] = _MethodActor(self, found.handler)
        return self._views[found.name]


class _MethodActor(Actor[Any, Any]):
    """A class actor as one that takes the messages of one method only."""

    __slots__ = ("_method",)

    def __init__(self, actor: ClassActor[Any], method: Handler) -> None:
        super().__init__(actor.home)
        self._method = method
        self.attach(actor.engine, actor.cell)

    def check_body(self, body: Any) -> None:
        """Check a body against the method's type, shallowly.

        Raises:
            WrongBody: the method does not take it.
        """
        if not self.cell.handler.is_resolved:
            self.cell.resolve()
        self._accepts = self._method.accepts
        if not isinstance(body, self._accepts):
            raise WrongBody(
                f"{self._method.name} of actor {self.name!r} takes {self._method.wanted}, "
                f"not {type(body).__qualname__}: {repr(body)[:80]}"
            )
