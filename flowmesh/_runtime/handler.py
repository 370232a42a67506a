"""What a handler takes: its signature, read once, where it is declared.

A handler takes `()` or `(body, ...)`, where the rest are annotated with Context or with the type of a provided thing.  A name
that is defined later in its module is looked up again when the mesh starts.
"""

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from flowmesh._runtime.signature import Annotations, Needs, accepted, named
from flowmesh.errors import InvalidHandler, MalformedMessage
from flowmesh.message import Encoded

__all__ = ["MEND", "BatchHandler", "Handler", "Nothing", "convert"]

MEND: Final = "a handler takes (), (body: Type) or (body: Type, ctx: Context), and provided things by their types"


class Nothing:
    """Accepts no body: the first one makes somebody look at the annotation again."""


class Handler:
    """A handler function and what it takes.

    `accepts` is what isinstance checks a body against; `body_type` what a body is converted to. `needs`: what is given to it
    by type; `context_as` is the name of the parameter that takes the Context, or None. `is_async`: awaited in its worker's
    task, not run in a thread. `leaves_with_asker`: cancelled when its asker leaves.
    """

    __slots__ = (
        "_annotations",
        "_body_annotation",
        "_injected",
        "accepts",
        "body_type",
        "function",
        "is_async",
        "is_resolved",
        "leaves_with_asker",
        "name",
        "needs",
        "takes_body",
    )

    def __init__(self, function: Callable[..., Any], injected: type, local_names: Mapping[str, Any]) -> None:
        self.function = function
        self._injected = injected
        self._annotations = annotations = Annotations(function, local_names, what="handler")
        self.name = annotations.name
        if inspect.isasyncgenfunction(annotations.target) or inspect.isgeneratorfunction(annotations.target):
            raise annotations.invalid("is a generator: publish each thing with ctx.publish instead of yielding it")
        self.is_async = self.leaves_with_asker = annotations.is_async
        self.takes_body = False
        self.accepts: Any = type(None)
        self.body_type: Any = None
        self._body_annotation: Any = None
        self.needs = Needs(annotations, injected, MEND)
        self.is_resolved = True
        self._read()
        if self.is_resolved:
            annotations.forget()

    @property
    def context_as(self) -> str | None:
        """The parameter that takes the Context, or None."""
        return self.needs.context_as

    def _read(self) -> None:
        for position, parameter in enumerate(self._annotations.parameters(MEND)):
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                stars = "*" if parameter.kind is parameter.VAR_POSITIONAL else "**"
                raise self._annotations.invalid(f"takes {stars}{parameter.name}; {MEND}")
            if position == 0 and parameter.kind is not parameter.KEYWORD_ONLY:
                self._read_body(parameter)
            else:
                self.needs.add(parameter)
        if self.needs.pending:
            self.is_resolved = False
            self.accepts = Nothing

    def _read_body(self, parameter: inspect.Parameter) -> None:
        if parameter.annotation is parameter.empty and parameter.name == "self":
            raise self._annotations.invalid(
                "is a method that nobody has bound: declare it with an instance, mesh.actor(thing.method)"
            )
        if parameter.annotation is parameter.empty:
            raise self._annotations.invalid(
                f"does not say what {parameter.name!r} is: annotate it with the body's type; {MEND}"
            )
        self.takes_body = True
        self._body_annotation = parameter.annotation
        try:
            self._resolve_body()
        except NameError:
            # Defined further down its module, most likely: the mesh looks again when it starts.
            self.is_resolved = False
            self.accepts = Nothing

    def resolve(self) -> None:
        """Evaluate the annotations that named something not yet defined.

        Raises:
            NameError: the body's still does.
            InvalidHandler: it is no type, or the Context; or another parameter's name is still not defined.
        """
        if self.is_resolved:
            return
        self._resolve_body()
        self.needs.resolve()
        self.is_resolved = True
        self._annotations.forget()

    def _resolve_body(self) -> None:
        if not self.takes_body:
            self.accepts = type(None)
            return
        self.body_type = self._annotations.type_of(self._body_annotation)
        if self.body_type is self._injected:
            raise self._annotations.invalid(
                "takes a Context first: the body comes first, write (_: None, ctx: Context) when there is none"
            )
        self.accepts = accepted(self.body_type)

    def convert(self, body: Any) -> Any:
        """Return the body as what the handler takes.

        Raises:
            MalformedMessage: it cannot be converted.
        """
        return convert(body, self.body_type, actor=self.name) if self.takes_body else None

    @property
    def wanted(self) -> str:
        """The body's type, for an error's text."""
        return named(self.body_type) if self.takes_body else "no body"

    @property
    def required(self) -> list[Any]:
        """The types that have to be provided."""
        return self.needs.required

    def bind(self, things: Mapping[Any, Any]) -> Callable[..., Any]:
        """Return the function with the provided things given to it."""
        return self.needs.bind(self.function, things)


class BatchHandler(Handler):
    """A handler that takes a list of bodies: `accepts`, `body_type` and `convert` are of one of them."""

    def _read(self) -> None:
        super()._read()
        if not self.takes_body:
            raise self._not_a_list("nothing")

    def _resolve_body(self) -> None:
        super()._resolve_body()
        kinds: tuple[Any, ...] = typing.get_args(self.body_type)
        if typing.get_origin(self.body_type) is not list or len(kinds) != 1:
            found = named(self.body_type)
            self.accepts = Nothing
            raise self._not_a_list(found)
        self.body_type = kinds[0]
        self.accepts = accepted(self.body_type)

    def _not_a_list(self, found: str) -> InvalidHandler:
        return self._annotations.invalid(
            f"takes {found}, but an actor with batch= is given a list: annotate its first parameter with list[...]"
        )


def convert(body: Any, kind: Any, *, actor: str) -> Any:
    """Return a body as this type.

    Raises:
        MalformedMessage: it cannot be converted.
    """
    if isinstance(body, Encoded):
        raise MalformedMessage(
            f"actor {actor!r} takes {named(kind)}, and the body that was stored is of type {body.type!r}, which no actor of "
            "the mesh takes by that name any more: give the type its old name (a Struct: tag=), or replay it where it is taken"
        )
    try:
        return msgspec.convert(body, kind, from_attributes=True)
    except Exception as error:  # A type's own code may run here (__post_init__, properties).
        raise MalformedMessage(
            f"actor {actor!r} takes {named(kind)}, and a body of type {type(body).__qualname__} cannot be converted to it: "
            f"{error}"
        ) from error
