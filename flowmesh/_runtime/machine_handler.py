"""A state machine's class as a handler: its methods, and what they say of states, read into a table.

Read where the class is made.  What names something that is not defined yet is read when it is needed first, and then the pairs
of which nothing is said are looked for.  How a machine lives and handles is in machine_life.py.
"""

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, get_args, get_origin

import anyio
from msgspec import Struct

from flowmesh._core.machines import Handling, Machinery, Response, Row, Timeout
from flowmesh._runtime.classes import ClassHandler, Method, in_thread, nearest
from flowmesh._runtime.hooks import Hooks
from flowmesh._runtime.marks import AfterMark, mark_of, marks_of
from flowmesh._runtime.position import StateTimeout
from flowmesh._runtime.signature import Annotations, Needs, named
from flowmesh.errors import InvalidHandler

__all__ = ["LIFE", "Action", "Living", "MachineHandler", "Unhandled", "untyped_data"]

Unhandled = Literal["forbid", "refuse", "ignore"]
Living = Callable[["MachineHandler", Any, object], AbstractAsyncContextManager[Any]]
"""Lets an instance live: entered once it is made, with its ActorContext, and left when it goes."""

LIFE = "_flowmesh_life"
"""The attribute of an instance that holds its life, while it has one; that can `bind` its messages."""
_MEND = "an @enter or @after method takes (self), Context and provided things, by their types"
_MAX_CACHED = 1000
"""Subclasses of message types that are remembered; the others are looked up each time."""


class Action:
    """A method that a state calls, not a message."""

    def __init__(self, kind: type[Any], name: str, injected: type, names: Mapping[str, Any]) -> None:
        function = inspect.getattr_static(kind, name)
        if not inspect.isfunction(function):
            raise InvalidHandler(f"class {kind.__module__}.{kind.__qualname__}: {name!r} is no method but {function!r}")
        annotations = Annotations(functools.partial(function, None), names, what="method")
        self.is_async = inspect.iscoroutinefunction(function)
        self.needs = Needs(annotations, injected, _MEND)
        for parameter in annotations.parameters(_MEND):
            self.needs.add(parameter)


def untyped_data(place: str, data: object) -> str:
    """Say what is wrong with data whose type nobody knows, and how to mend it."""
    return (
        f"machine {place} has data without a type, and would lose them at a restart: annotate them in the class, "
        f"data: {type(data).__name__}, with a frozen msgspec.Struct; or call the attribute something else"
    )


class MachineHandler(ClassHandler):
    """The class of a state machine and what its methods take; the same face as a Handler.

    `initial`, `unhandled`, `limit`: as the class says. `data_type`: of its data, or None. `actions`: what its states call.
    `own_hooks`: of the class itself. `place`: names it in errors.
    """

    is_machine = True

    def __init__(
        self,
        kind: type[Any],
        injected: type,
        local_names: Mapping[str, Any],
        *,
        initial: str,
        unhandled: Unhandled,
        limit: int,
        tell: Callable[[Machinery], None],
        living: Living,
    ) -> None:
        self.initial = initial
        self.unhandled: Unhandled = unhandled
        self._tell = tell
        self._names = local_names
        self._kinds: dict[type, type] = {}
        self.data_type: Any = None
        self._machinery: Machinery | None = None
        self.limit = limit
        self._is_read = False
        self.actions = {name: Action(kind, name, injected, local_names) for name, _ in marks_of(kind)}
        super().__init__(kind, injected, local_names)
        self.postpones = any(mark_of(kind, name).postpone for name in self.methods)
        self.has_timeouts = any(isinstance(mark, AfterMark) for _, mark in marks_of(kind))
        self.place = self._place
        self.own_hooks: Hooks | None = self.hooks
        self.hooks = functools.partial(living, self)
        self._is_read = True
        if any(action.needs.pending for action in self.actions.values()):
            self.is_resolved = False

    @property
    def machinery(self) -> Machinery:
        """The table.

        Raises:
            InvalidHandler: an annotation still names something that is not defined.
        """
        if self._machinery is None or not self.is_resolved:
            try:
                self.resolve()
            except NameError as error:
                raise InvalidHandler(
                    f"machine {self._place} has an annotation with a name that is not defined: {error}"
                ) from error
        assert self._machinery is not None
        return self._machinery

    def resolve(self) -> None:
        """Evaluate the annotations that named something not yet defined; as of a class."""
        super().resolve()
        for action in self.actions.values():
            action.needs.resolve()

    @property
    def required(self) -> list[Any]:
        """The types that have to be provided."""
        return [*super().required, *(kind for action in self.actions.values() for kind in action.needs.required)]

    def response_to(self, state: str, body: object) -> Response | None:
        """Return what is done with a message in a state; None for a pair of which nobody says anything."""
        machinery = self.machinery
        if isinstance(body, StateTimeout):
            return machinery.timeouts[state].handling if state in machinery.timeouts else None
        return machinery.response(state, self._kind_of(machinery, type(body)))

    def bind(self, instance: Any, things: Mapping[Any, Any]) -> Callable[..., Any]:
        """Return what an instance's messages are handled with, in the life that it has."""
        return getattr(instance, LIFE).bind(things)

    def actions_of(
        self, instance: Any, things: Mapping[Any, Any], limiter: anyio.CapacityLimiter
    ) -> dict[str, Callable[..., Any]]:
        """Return what an instance's states call, by name, each with the things that it asks for; to be given a Context."""
        bound: dict[str, Callable[..., Any]] = {}
        for name, action in self.actions.items():
            call = action.needs.bind(getattr(instance, name), things)
            call = call if action.is_async else in_thread(call, limiter)
            bound[name] = functools.partial(_call, call, action.needs.context_as)
        return bound

    # Reading

    def _tabulate(self) -> None:
        try:
            self.data_type = self._read_data()
        except NameError:
            if self._is_read:
                raise
            self.is_resolved = False
            return
        self._annotations.forget()
        rows: list[Row] = []
        for name, method in self.methods.items():
            mark = mark_of(self.kind, name)
            handling = Handling(name, mark.to, mark.goes)
            kinds = tuple(self._kinds_of(method))
            rows.append(Row(handling, kinds, mark.states, mark.postpone, mark.ignore, mark.refuse))
        timeouts: list[Timeout] = []
        entries: list[tuple[str, str]] = []
        for name, mark in marks_of(self.kind):
            if isinstance(mark, AfterMark):
                handling = Handling(name, mark.to, mark.goes)
                timeouts += (Timeout(state, mark.delay, handling) for state in mark.states)
            else:
                entries += ((state, name) for state in mark)
        self._machinery = machinery = Machinery(self._place, self.initial, rows, timeouts, entries)
        if machinery.unhandled and self.unhandled == "forbid":
            raise InvalidHandler(
                f"machine {self._place} says nothing of {_listed(machinery)}: name the state in on(...) of a method that takes "
                "the type, or in its postpone=, ignore= or refuse=; or say of all of them unhandled='refuse' or 'ignore' "
                "where the class begins"
            )
        self._kinds = {kind: kind for kind in machinery.kinds}
        if float in self._kinds:
            self._kinds.setdefault(int, float)  # as type checkers have it
        self._take({kind: self._first_of(machinery, self._kinds[kind]) for kind in self._kinds})
        self.accepts = (*self._kinds, StateTimeout)
        self.context_as = "context"
        self._tell(machinery)

    def _first_of(self, machinery: Machinery, kind: type) -> Method:
        return self.methods[next(row.handling.method for row in machinery.rows if kind in row.kinds)]

    def _read_data(self) -> Any:
        for owner in self.kind.__mro__:
            annotation = vars(owner).get("__annotations__", {}).get("data")
            if annotation is None:
                if "data" in vars(owner):
                    raise InvalidHandler(untyped_data(self._place, vars(owner)["data"]))
                continue
            module = getattr(sys.modules.get(owner.__module__), "__dict__", {})
            found = Annotations(owner, self._names, what="class", more=module).type_of(annotation)
            members = get_args(found) if get_origin(found) is not None or get_args(found) else (found,)
            if not all(isinstance(one, type) and issubclass(one, Struct) and one.__struct_config__.frozen for one in members):
                raise InvalidHandler(
                    f"machine {self._place} has data of type {named(found)}: it must be a frozen msgspec.Struct, so that a "
                    "turn that fails can be undone; give it a new one, self.data = msgspec.structs.replace(self.data, ...)"
                )
            return found
        return None

    def _kind_of(self, machinery: Machinery, kind: type) -> type:
        found = self._kinds.get(kind)
        if found is None:
            found = nearest({one: one for one in machinery.kinds}, kind)
            if len(self._kinds) < _MAX_CACHED:
                self._kinds[kind] = found
        return found


def _listed(machinery: Machinery) -> str:
    kinds: dict[str, list[str]] = {}
    for state, kind in machinery.unhandled:
        kinds.setdefault(kind.__name__, []).append(repr(state))
    return "; ".join(f"{kind} in {', '.join(states)}" for kind, states in kinds.items())


def _call(call: Callable[..., Any], context_as: str | None, context: object) -> Any:
    return call() if context_as is None else call(**{context_as: context})
