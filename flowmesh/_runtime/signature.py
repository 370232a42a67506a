"""What a callable's parameters ask for: annotations evaluated, and things injected by type.

Only the annotations that are needed are evaluated; a name that is defined later in its module is looked up again when the
mesh starts.  A parameter with a default is given what its type provides, if that is provided, and its default otherwise.
"""

import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from flowmesh.errors import InvalidHandler

__all__ = ["Annotations", "Needs", "accepted", "can_be_key", "check_provided", "locals_of_caller", "missing", "named"]

_NONE: Final = type(None)


def locals_of_caller(depth: int) -> Mapping[str, Any]:
    """Return the local names of the function `depth` calls up: annotations may name types that are defined there."""
    frame = sys._getframe(depth + 1)  # pyright: ignore[reportPrivateUsage] - the only way to a caller's names
    return {} if frame.f_locals is frame.f_globals else _LocalNames(frame)


class _LocalNames(Mapping[str, Any]):
    """The local names of a function, as they are when somebody looks: a type may be defined after the handler."""

    __slots__ = ("_frame",)

    def __init__(self, frame: types.FrameType) -> None:
        self._frame = frame

    def __getitem__(self, name: str) -> Any:
        return self._frame.f_locals[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._frame.f_locals)

    def __len__(self) -> int:
        return len(self._frame.f_locals)


class Annotations:
    """Evaluates the annotations of one callable.

    `what` names its kind in errors. `more`: globals for one that has none of its own (a class whose `__init__` is not written
    in Python). Call `forget` when nothing is left to evaluate: the local names keep the declaring function's frame alive.
    """

    def __init__(
        self, function: Callable[..., Any], local_names: Mapping[str, Any], *, what: str, more: dict[str, Any] | None = None
    ) -> None:
        target: Any = function
        while isinstance(target, functools.partial):
            target = target.func
        self.name: str = getattr(target, "__name__", type(target).__name__)
        if not inspect.isroutine(target) and not inspect.isclass(target) and callable(target):
            target = type(target).__call__
        self.is_async = inspect.iscoroutinefunction(target)
        self.target: Any = inspect.unwrap(target)
        self._place = f"{getattr(self.target, '__module__', '?')}.{getattr(self.target, '__qualname__', self.name)}"
        self._what = what
        self._function = function
        self._more: dict[str, Any] = more or {}
        self._locals: Mapping[str, Any] = local_names

    def parameters(self, mend: str) -> list[inspect.Parameter]:
        """Return its parameters.

        Raises:
            InvalidHandler: it has no signature that can be read.
        """
        try:
            return list(inspect.signature(self._function).parameters.values())
        except (TypeError, ValueError) as error:
            raise self.invalid(f"has no signature that can be read; {mend}") from error

    def type_of(self, annotation: Any) -> Any:
        """Return the type that an annotation means, names inside it (`list["Order"]`) included.

        Raises:
            NameError: it names something that is not defined yet.
            InvalidHandler: it is no type.
        """
        if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
            return annotation
        function = self.target
        names: dict[str, Any] = dict(self._locals)
        for cell_name, cell in zip(
            getattr(getattr(function, "__code__", None), "co_freevars", ()),
            getattr(function, "__closure__", None) or (),
            strict=False,
        ):
            try:
                names[cell_name] = cell.cell_contents
            except ValueError:  # not assigned yet
                continue
        holder = types.SimpleNamespace(__annotations__={"it": annotation})
        try:
            known: dict[str, Any] = getattr(function, "__globals__", self._more)
            found = typing.get_type_hints(holder, known, names, include_extras=True)["it"]
        except NameError:
            raise
        except Exception as error:
            raise self.invalid(f"has an annotation that is no type, {annotation!r}: {error}") from error
        if not (callable(found) or isinstance(found, types.UnionType | typing.TypeVar) or _is_alias(found)):
            raise self.invalid(f"has an annotation that is no type, {annotation!r}: {found!r}")
        return found

    def forget(self) -> None:
        """Let the local names go: everything has been evaluated."""
        self._locals = {}

    def invalid(self, what: str) -> InvalidHandler:
        """Return the error that says what is wrong with it."""
        return InvalidHandler(f"{self._what} {self._place} {what}")


class Needs:
    """The parameters of a callable that are given by type: the Context, and provided things.

    `context_as`: the parameter that takes the Context, or None. `things`: parameter to type. `optional`: those of `things`
    that have a default. `pending`: parameters whose annotation names something that is not defined yet.
    """

    def __init__(self, annotations: Annotations, context: type | None, mend: str) -> None:
        self._annotations = annotations
        self._context = context
        self._mend = mend
        self.context_as: str | None = None
        self.things: dict[str, Any] = {}
        self.optional: set[str] = set()
        self.pending: list[inspect.Parameter] = []

    def add(self, parameter: inspect.Parameter) -> None:
        """Read one parameter.

        Raises:
            InvalidHandler: nothing could be given to it.
        """
        if parameter.annotation is parameter.empty:
            if parameter.default is parameter.empty:
                types = "the type of a provided thing" if self._context is None else "Context, or a provided thing's type"
                raise self._annotations.invalid(
                    f"does not say what {parameter.name!r} is: annotate it with {types}; {self._mend}"
                )
            return
        try:
            self._read(parameter)
        except NameError:
            self.pending.append(parameter)

    def resolve(self) -> None:
        """Evaluate what was not defined before.

        Raises:
            InvalidHandler: it still is not.
        """
        while self.pending:
            parameter = self.pending[0]
            try:
                self._read(parameter)
            except NameError as error:
                if parameter.default is parameter.empty:
                    raise self._annotations.invalid(
                        f"annotates {parameter.name!r} with a name that is not defined: {error}"
                    ) from error
            del self.pending[0]

    def _read(self, parameter: inspect.Parameter) -> None:
        is_optional = parameter.default is not parameter.empty
        try:
            annotation = self._annotations.type_of(parameter.annotation)
        except InvalidHandler:
            if is_optional:
                return
            raise
        is_context = self._context is not None and annotation is self._context
        if is_context and self.context_as is not None:
            raise self._annotations.invalid(f"asks for {parameter.name!r}, a second Context; {self._mend}")
        if parameter.kind is parameter.POSITIONAL_ONLY:
            if is_optional and not is_context:
                return
            raise self._annotations.invalid(f"takes {parameter.name!r} by position only: move the / before it")
        if is_context:
            self.context_as = parameter.name
            return
        self.things[parameter.name] = annotation
        if is_optional:
            self.optional.add(parameter.name)

    @property
    def required(self) -> list[Any]:
        """The types that have to be provided."""
        return [kind for name, kind in self.things.items() if name not in self.optional]

    def given(self, things: Mapping[Any, Any]) -> dict[str, Any]:
        """Return the arguments that stand for these things."""
        return {name: things[kind] for name, kind in self.things.items() if can_be_key(kind) and kind in things}

    def bind(self, function: Callable[..., Any], things: Mapping[Any, Any]) -> Callable[..., Any]:
        """Return the function with these things given to it; the function itself when it asks for none."""
        given = self.given(things)
        return functools.partial(function, **given) if given else function


def check_provided(actor: str, kinds: Iterable[Any], things: Mapping[Any, Any]) -> None:
    """Refuse an actor that asks for what is not among the things.

    Raises:
        InvalidHandler: naming what is missing.
    """
    for kind in kinds:
        if not (can_be_key(kind) and kind in things):
            raise missing([f"actor {actor!r}", kind])


def missing(chain: list[Any]) -> InvalidHandler:
    """Return the error for the last of a chain, each of which needs the next."""
    first, *rest = (one if isinstance(one, str) else named(one) for one in chain)
    return InvalidHandler(
        f"{first} needs {', which needs '.join(rest)}, which nobody provides: mesh.provide({rest[-1]}, factory)"
    )


def named(annotation: Any) -> str:
    """Return a type's name, for an error's text."""
    if annotation is _NONE:
        return "None"
    return (
        annotation.__qualname__
        if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias)
        else str(annotation)
    )


def accepted(annotation: Any) -> Any:
    """Return what isinstance can check a body against: shallow, and `object` where it cannot tell."""
    if annotation is None or annotation is _NONE:
        return _NONE
    if annotation is float:
        return (float, int)  # as type checkers have it
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return accepted(typing.get_args(annotation)[0])
    if origin is typing.Literal:
        literal: set[Any] = {type(value) for value in typing.get_args(annotation)}
        return tuple(literal)
    if origin is typing.Union or origin is types.UnionType:
        found = [accepted(part) for part in typing.get_args(annotation)]
        kinds: list[Any] = []
        for part in found:
            kinds += part if isinstance(part, tuple) else (part,)
        return tuple(kinds)
    if origin is not None:
        return accepted(origin)
    if isinstance(annotation, typing.NewType):
        return accepted(annotation.__supertype__)
    if isinstance(annotation, typing.TypeVar):
        return object if annotation.__bound__ is None else accepted(annotation.__bound__)
    if typing.is_typeddict(annotation):
        return dict
    if _is_alias(annotation):
        return accepted(annotation.__value__)
    if not isinstance(annotation, type):
        return object
    try:
        isinstance(None, annotation)
    except TypeError:  # a Protocol that cannot be checked
        return object
    return annotation


def _is_alias(annotation: Any) -> bool:
    return type(annotation).__name__ == "TypeAliasType"  # `type Order = ...`, since Python 3.12


def can_be_key(kind: Any) -> bool:
    """Tell whether things can be looked up by it."""
    try:
        hash(kind)
    except TypeError:
        return False
    return True
