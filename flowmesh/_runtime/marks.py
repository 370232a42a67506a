"""The decorators of a class actor's methods: which messages it takes, and what a machine does when a state begins or lasts.

They note what they say on the function and return it: a class stays a class, and its methods can be called in a unit test.
What overrides a marked method takes its place, and its mark, unless it has one of its own.
"""

import inspect
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias, TypeVar, cast, overload

from msgspec import Struct

from flowmesh.checks import is_seconds
from flowmesh.errors import InvalidHandler

__all__ = ["AfterMark", "Mark", "after", "enter", "mark_of", "marked", "marks_of", "on"]

Marked = TypeVar("Marked", bound=Callable[..., Any])

_ON: Final = "__flowmesh_on__"
_ENTER: Final = "__flowmesh_enter__"
_AFTER: Final = "__flowmesh_after__"

States: TypeAlias = str | tuple[str, ...]
"""The name of a state, or several."""


class Mark(Struct, frozen=True):
    """What `on` says of a method. The rest is for machines only: where it handles its types, and where they are not handled."""

    states: tuple[str, ...] = ()
    to: tuple[str, ...] = ()
    goes: bool = False
    postpone: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    refuse: tuple[str, ...] = ()

    @property
    def names_states(self) -> bool:
        """It says more than a plain `on`."""
        return self != _PLAIN


class AfterMark(Struct, frozen=True):
    """What `after` says of a method."""

    states: tuple[str, ...]
    delay: float
    to: tuple[str, ...]
    goes: bool


_PLAIN: Final = Mark()


@overload
def on(method: Marked, /) -> Marked: ...
@overload
def on(
    *states: str, to: States = (), postpone: States = (), ignore: States = (), refuse: States = ()
) -> Callable[[Marked], Marked]: ...
def on(*given: Any, to: States = (), postpone: States = (), ignore: States = (), refuse: States = ()) -> Any:
    """Mark a method of a class actor as the one that takes messages of the type that its first parameter is annotated with.

        class Totals:
            @on
            async def placed(self, message: OrderPlaced) -> None: ...

    A union gives it all of its members. What overrides a marked method takes its place, marked or not.
    In a `Machine`, say in which states it does, where that leads, and what is done with such a message elsewhere:

        class Door(Machine, initial="locked"):
            @on("closed", to="open", postpone="locked", ignore="open")
            async def open(self, message: Open) -> None: ...

    Args:
        *given: the method; or, of a machine, the states in which it handles (none: in every state of which nothing is said).
        to: the state that it leads to when it has returned; or several, of which `self.become(...)` may choose one.
        postpone: states in which its messages wait for the next change of state.
        ignore: states in which its messages are done with at once, unhandled: acked, but an asker gets NoReply.
        refuse: states in which its messages are dead letters, `rejected`, and an asker gets NoReply.

    Raises:
        InvalidHandler: it is no method: a class, a staticmethod, a property.
    """
    if len(given) == 1 and not isinstance(given[0], str):
        return _mark(given[0], _ON, _PLAIN, "@on", "(self, message: Type)")
    mark = Mark(
        states=_states("on", given),
        to=_states("to", to),
        goes=isinstance(to, str),
        postpone=_states("postpone", postpone),
        ignore=_states("ignore", ignore),
        refuse=_states("refuse", refuse),
    )

    def decorate(method: Marked) -> Marked:
        return _mark(method, _ON, mark, "@on", "(self, message: Type)")

    return decorate


def enter(*states: str) -> Callable[[Marked], Marked]:
    """Mark a method of a Machine that is called whenever one of these states is entered, the initial one at the start too.

        @enter("open")
        async def opened(self, ctx: Context) -> None: ...

    It belongs to the turn that changes the state, after its handler has returned: what its Context collects leaves with that
    ack, and if it fails the turn fails and the state stays as it was. A machine that is made anew resumes in its state
    without entering it. It takes the Context and provided things, each if it wants.

    Raises:
        InvalidHandler: no state, or no method.
    """
    found = _states("enter", states)
    if not found:
        raise InvalidHandler("enter needs the name of a state: @enter('open')")

    def decorate(method: Marked) -> Marked:
        return _mark(method, _ENTER, found, "@enter", "(self, ctx: Context)")

    return decorate


def after(delay: float, /, *states: str, to: States = ()) -> Callable[[Marked], Marked]:
    """Mark a method of a Machine that is called when one of these states has lasted for `delay` seconds.

        @after(30.0, "open", to="closed")
        async def shut(self) -> None: ...

    Leaving the state cancels it, and entering the state, also anew, begins it again. A machine that is made anew resumes with
    a fresh timeout. The method has a turn of its own, behind the messages that are ready already. It takes the Context and
    provided things, each if it wants.

    Args:
        delay: seconds, more than zero.
        *states: the states that have this timeout; a state has one at most.
        to: the state that it leads to, or several of which `self.become(...)` may choose one; as for `on`.

    Raises:
        InvalidHandler: no delay, no state, or no method.
    """
    if not is_seconds(delay):
        raise InvalidHandler(f"after needs a delay in seconds first, @after(30.0, 'open'), not {delay!r}")
    mark = AfterMark(_states("after", states), float(delay), _states("to", to), isinstance(to, str))
    if not mark.states:
        raise InvalidHandler(f"after needs the name of a state: @after({delay!r}, 'open')")

    def decorate(method: Marked) -> Marked:
        return _mark(method, _AFTER, mark, "@after", "(self, ctx: Context)")

    return decorate


def marked(kind: type[Any], mark: str = _ON) -> list[str]:
    """Return the names of the methods that take messages, in the order in which they were written, base classes first."""
    names: dict[str, None] = {}
    for owner in reversed(kind.__mro__):
        for name, member in vars(owner).items():
            if _has(member, mark):
                names[name] = None
    return [name for name in names if inspect.getattr_static(kind, name) is not None]


def mark_of(kind: type[Any], name: str) -> Mark:
    """Return what `on` says of a method."""
    return cast("Mark", _found(kind, name, _ON))


def marks_of(kind: type[Any]) -> Iterator[tuple[str, tuple[str, ...] | AfterMark]]:
    """Give the methods that `enter` and `after` have marked, with the states of the one and all that the other says."""
    for mark in (_ENTER, _AFTER):
        yield from ((name, _found(kind, name, mark)) for name in marked(kind, mark))


def _mark(method: Marked, name: str, mark: object, decorator: str, takes: str) -> Marked:
    target: object = method
    if not inspect.isfunction(target):
        raise InvalidHandler(f"{decorator} goes on a method, def ...{takes}, not on {method!r}")
    setattr(target, name, mark)
    return method


def _has(member: object, mark: str) -> bool:
    return hasattr(member, mark) or hasattr(getattr(member, "__func__", None), mark)


def _found(kind: type[Any], name: str, mark: str) -> Any:
    """Return what a marked method's mark says: its own, or that of the one that it overrides."""
    member: Any = next(vars(owner)[name] for owner in kind.__mro__ if _has(vars(owner).get(name), mark))
    return getattr(member, mark, None) or getattr(member.__func__, mark)


def _states(option: str, states: object) -> tuple[str, ...]:
    """Return the names of states that were given, one or several.

    Raises:
        InvalidHandler: they are no such names.
    """
    found: tuple[Any, ...] = (states,) if isinstance(states, str) else tuple(cast("Any", states))
    for state in found:
        if not isinstance(state, str) or not state:
            raise InvalidHandler(f"{option} takes names of states, not {state!r}: @on on a method, or @on('closed', to='open')")
    return tuple(str.__str__(state) for state in found)
