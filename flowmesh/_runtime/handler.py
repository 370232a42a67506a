"""What a handler takes: its signature, read once, where it is declared.

A handler takes `()` or `(body, ...)`, where the rest are annotated with Context.  Only the annotations that are needed are
evaluated; a name that is defined later in its module is looked up again when the mesh starts.
"""

import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec

from flowmesh.errors import InvalidHandler, MalformedMessage

__all__ = ["Handler", "locals_of_caller"]

_NONE: Final = type(None)
_MEND: Final = "a handler takes (), (body: Type) or (body: Type, ctx: Context)"


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


class _Nothing:
    """Accepts no body: the first one makes somebody look at the annotation again."""


class Handler:
    """A handler function and what it takes.

    `accepts` is what isinstance checks a body against; `body_type` what a body is converted to. `context_as` is the name
    of the parameter that takes the Context, or None. `is_async`: awaited in its worker's task, not run in a thread.
    """

    def __init__(self, function: Callable[..., Any], injected: type, local_names: Mapping[str, Any]) -> None:
        self.function = function
        self._locals: Mapping[str, Any] = local_names
        self._injected = injected
        target: Any = function
        while isinstance(target, functools.partial):
            target = target.func
        self.name: str = getattr(target, "__name__", type(target).__name__)
        if not inspect.isroutine(target) and callable(target):
            target = type(target).__call__
        self._target: Any = inspect.unwrap(target)
        if inspect.isasyncgenfunction(self._target) or inspect.isgeneratorfunction(self._target):
            raise self._invalid("is a generator: publish each thing with ctx.publish instead of yielding it")
        self.is_async = inspect.iscoroutinefunction(target)
        self.takes_body = False
        self.context_as: str | None = None
        self.accepts: Any = _NONE
        self.body_type: Any = None
        self._body_annotation: Any = None
        self.is_resolved = True
        self._read()
        if self.is_resolved:
            self._locals = {}  # They would keep the declaring function's frame alive.

    def _read(self) -> None:
        try:
            parameters = list(inspect.signature(self.function).parameters.values())
        except (TypeError, ValueError) as error:
            raise self._invalid(f"has no signature that can be read; {_MEND}") from error
        for position, parameter in enumerate(parameters):
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                stars = "*" if parameter.kind is parameter.VAR_POSITIONAL else "**"
                raise self._invalid(f"takes {stars}{parameter.name}; {_MEND}")
            if position == 0 and parameter.kind is not parameter.KEYWORD_ONLY:
                self._read_body(parameter)
            else:
                self._read_rest(parameter)

    def _read_body(self, parameter: inspect.Parameter) -> None:
        if parameter.annotation is parameter.empty:
            raise self._invalid(f"does not say what {parameter.name!r} is: annotate it with the body's type; {_MEND}")
        self.takes_body = True
        self._body_annotation = parameter.annotation
        try:
            self.resolve()
        except NameError:
            # Defined further down its module, most likely: the mesh looks again when it starts.
            self.is_resolved = False
            self.accepts = _Nothing

    def _read_rest(self, parameter: inspect.Parameter) -> None:
        if parameter.annotation is parameter.empty:
            if parameter.default is parameter.empty:
                raise self._invalid(f"does not say what {parameter.name!r} is: annotate it with Context; {_MEND}")
            return
        try:
            annotation = self._evaluate(parameter.annotation)
        except (NameError, InvalidHandler) as error:
            if parameter.default is not parameter.empty:
                return
            if isinstance(error, InvalidHandler):
                raise
            raise self._invalid(f"annotates {parameter.name!r} with a name that is not defined: {error}") from error
        if annotation is self._injected and self.context_as is None:
            if parameter.kind is parameter.POSITIONAL_ONLY:
                raise self._invalid(f"takes {parameter.name!r} by position only: move the / before it")
            self.context_as = parameter.name
        elif parameter.default is parameter.empty:
            raise self._invalid(f"asks for {parameter.name!r}: {annotation!r}, which nobody provides; {_MEND}")

    def resolve(self) -> None:
        """Evaluate the body's annotation.

        Raises:
            NameError: it names something that is not defined yet.
            InvalidHandler: it is no type, or the Context.
        """
        if self.takes_body:
            self.body_type = self._evaluate(self._body_annotation)
            if self.body_type is self._injected:
                raise self._invalid(
                    "takes a Context first: the body comes first, write (_: None, ctx: Context) when there is none"
                )
            self.accepts = _accepted(self.body_type)
        if not self.is_resolved:
            self.is_resolved = True
            self._locals = {}

    def convert(self, body: Any) -> Any:
        """Return the body as what the handler takes.

        Raises:
            MalformedMessage: it cannot be converted.
        """
        if not self.takes_body:
            return None
        try:
            return msgspec.convert(body, self.body_type, from_attributes=True)
        except Exception as error:  # A type's own code may run here (__post_init__, properties).
            raise MalformedMessage(
                f"actor {self.name!r} takes {_named(self.body_type)}, and a {type(body).__qualname__} body cannot be converted "
                f"to it: {error}"
            ) from error

    @property
    def wanted(self) -> str:
        """The body's type, for an error's text."""
        return _named(self.body_type) if self.takes_body else "no body"

    def _evaluate(self, annotation: Any) -> Any:
        """Return the type that an annotation means, names inside it (`list["Order"]`) included."""
        if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
            return annotation
        function = self._target
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
            found = typing.get_type_hints(holder, getattr(function, "__globals__", {}), names, include_extras=True)["it"]
        except NameError:
            raise
        except Exception as error:
            raise self._invalid(f"has an annotation that is no type, {annotation!r}: {error}") from error
        if not (callable(found) or isinstance(found, types.UnionType | typing.TypeVar) or _is_alias(found)):
            raise self._invalid(f"has an annotation that is no type, {annotation!r}: {found!r}")
        return found

    def _invalid(self, what: str) -> InvalidHandler:
        module = getattr(self._target, "__module__", "?")
        return InvalidHandler(f"handler {module}.{getattr(self._target, '__qualname__', self.name)} {what}")


def _is_alias(annotation: Any) -> bool:
    return type(annotation).__name__ == "TypeAliasType"  # `type Order = ...`, since Python 3.12


def _named(annotation: Any) -> str:
    if annotation is _NONE:
        return "None"
    return (
        annotation.__qualname__
        if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias)
        else str(annotation)
    )


def _accepted(annotation: Any) -> Any:
    """Return what isinstance can check a body against: shallow, and `object` where it cannot tell."""
    if annotation is None or annotation is _NONE:
        return _NONE
    if annotation is float:
        return (float, int)  # as type checkers have it
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _accepted(typing.get_args(annotation)[0])
    if origin is typing.Literal:
        literal: set[Any] = {type(value) for value in typing.get_args(annotation)}
        return tuple(literal)
    if origin is typing.Union or origin is types.UnionType:
        found = [_accepted(part) for part in typing.get_args(annotation)]
        kinds: list[Any] = []
        for part in found:
            kinds += part if isinstance(part, tuple) else (part,)
        return tuple(kinds)
    if origin is not None:
        return _accepted(origin)
    if isinstance(annotation, typing.NewType):
        return _accepted(annotation.__supertype__)
    if isinstance(annotation, typing.TypeVar):
        return object if annotation.__bound__ is None else _accepted(annotation.__bound__)
    if typing.is_typeddict(annotation):
        return dict
    if _is_alias(annotation):
        return _accepted(annotation.__value__)
    if not isinstance(annotation, type):
        return object
    try:
        isinstance(None, annotation)
    except TypeError:  # a Protocol that cannot be checked
        return object
    return annotation
