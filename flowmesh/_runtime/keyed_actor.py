"""The public face of a class actor with `by=`, and of one of its instances."""

from collections.abc import Awaitable
from typing import Any, Generic, TypeVar, Unpack, overload

from flowmesh._runtime.cell import Cell
from flowmesh._runtime.class_actor import ClassActor
from flowmesh._runtime.composing import OutputOptions
from flowmesh._runtime.instance import check_value, name_of
from flowmesh.message import Receipt, Request

__all__ = ["InstanceHandle", "KeyedActor"]

Instance = TypeVar("Instance")
Value = TypeVar("Value")
Key = TypeVar("Key", contravariant=True)
Answer = TypeVar("Answer")


class KeyedActor(ClassActor[Instance], Generic[Instance, Key]):
    """A class actor with one instance for each value that `by=` gives. Declare it with `mesh.actor(Totals, by=...)`.

    A message goes to the instance of its value, which its first message makes. Instances work beside each other, as
    many as `concurrency=` says; each has one message at a time, in order.
    """

    __slots__ = ()

    def at(self, value: Key) -> "InstanceHandle":
        """Return one instance to talk to: `totals.at("42")`. It need not be there yet: its first message makes it.

        Args:
            value: as `by=` gives it.

        Raises:
            TypeError: a value that cannot be told from others: it is not hashable.
        """
        try:
            hash(value)
        except TypeError as error:
            raise TypeError(
                f"{value!r:.80} is no value of actor {self.name!r}: {error}; give what by= gives, "
                "a tuple instead of a list, say"
            ) from error
        return InstanceHandle(self, value)


class InstanceHandle:
    """One instance of a class actor with `by=`, as somebody who sends to it sees it; `totals.at("42")` gives it.

    It is only a name: it keeps no instance alive, and stands for the next one as well when one has been put away.
    """

    __slots__ = ("_actor", "value")

    def __init__(self, actor: KeyedActor[Any, Any], value: Any) -> None:
        self._actor = actor
        self.value = value

    def __repr__(self) -> str:
        return f"<InstanceHandle {self.name!r}>"

    @property
    def name(self) -> str:
        """What the instance is called, like `totals[42]`."""
        return name_of(self._actor.cell, self.value)

    @property
    def cell(self) -> Cell:
        """Its actor's place in the scheduler."""
        return self._actor.cell

    def check_body(self, body: Any) -> None:
        """Check that a message is one that the instance takes.

        Raises:
            WrongBody: its class does not take it.
            ValueError: it is for another instance: `by=` gives another value for it, or none.
        """
        self._actor.check_body(body)
        check_value(self._actor.cell, self.value, body)

    async def tell(self, body: Any, **options: Unpack[OutputOptions]) -> Receipt:
        """Put a message for it into its actor's mailbox, as `Actor.tell`.

        Cancellation: before the message has entered.

        Raises:
            WrongBody, ValueError: as `check_body`.
            Exception: as `Actor.tell`.
        """
        self.check_body(body)
        return await self._actor.tell(body, **options)

    def tell_nowait(self, body: Any, **options: Unpack[OutputOptions]) -> Receipt:
        """Put a message for it into its actor's mailbox at once, as `Actor.tell_nowait`.

        Raises:
            WrongBody, ValueError: as `check_body`.
            MailboxFull: where `tell` would wait, too.
        """
        self.check_body(body)
        return self._actor.tell_nowait(body, **options)

    @overload
    def ask(
        self, body: Request[Answer], *, timeout: float | None = 30.0, **options: Unpack[OutputOptions]
    ) -> Awaitable[Answer]: ...
    @overload
    def ask(self, body: Any, *, timeout: float | None = 30.0, **options: Unpack[OutputOptions]) -> Awaitable[Any]: ...
    def ask(self, body: Any, *, timeout: float | None = 30.0, **options: Unpack[OutputOptions]) -> Awaitable[Any]:
        """Put a question to it into its actor's mailbox and wait for the answer, as `Actor.ask`.

        Cancellation: the message is withdrawn if it has not started; if it has, its handler runs on.

        Raises:
            WrongBody, ValueError: as `check_body`.
            Exception: as `Actor.ask`.
        """
        self.check_body(body)
        return self._actor.ask(body, timeout=timeout, **options)
