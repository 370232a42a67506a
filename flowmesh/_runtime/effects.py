"""What a turn leads to beside messages: saved state, timers of its incarnation, watches.  All with the ack, or not at all.

Saved state is encoded where it is saved, so that what a handler does to the thing afterwards is not in it, and decoded where
it is asked for: an instance never shares it with the one before.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from flowmesh._core.commits import Save
from flowmesh._runtime.classes import ClassHandler
from flowmesh._runtime.ground import Ground
from flowmesh._runtime.instance import Acting
from flowmesh._runtime.reminding import check_own_body, check_watched, reminders_of, watch
from flowmesh.checks import is_seconds, require
from flowmesh.errors import PreconditionFailed
from flowmesh.message import Message

__all__ = ["Effects", "saved_state"]

State = TypeVar("State")


class Effects:
    """What one turn collects, or a hook asks for at once. `save`: the state to be saved in the turn's commit."""

    __slots__ = ("_cell", "_deeds", "_ground", "_parent", "save")

    def __init__(self, ground: Ground, cell: Acting, parent: Message | None) -> None:
        self._ground = ground
        self._cell = cell
        self._parent = parent
        self._deeds: list[Callable[[], object]] = []
        self.save: Save | None = None

    def set_timer(self, name: str, delay: float, body: Any) -> None:
        """Set a timer of the incarnation.

        Raises:
            ValueError: an empty name, or a delay that is no number of zero or more seconds.
            WrongBody: the actor does not take the message.
        """
        _check_name(name)
        require(is_seconds(delay), "delay", "zero or more seconds", delay)
        check_own_body(self._cell, body)
        self._deeds.append(lambda: reminders_of(self._ground, self._cell).set(name, delay, body, self._parent))

    def cancel_timer(self, name: str) -> None:
        """Cancel one, if there is one.

        Raises:
            ValueError: an empty name.
        """
        _check_name(name)
        self._deeds.append(lambda: reminders_of(self._ground, self._cell).cancel(name))

    def watch(self, actor: object, body: Any) -> None:
        """Ask for a message when another actor has stopped.

        Raises:
            WrongBody: the actor does not take the message.
            TypeError, PreconditionFailed, InvalidBinding, NotFound: it cannot be watched, as `check_watched` says.
        """
        check_own_body(self._cell, body)
        other = check_watched(self._ground, self._cell, actor)
        self._deeds.append(lambda: watch(self._ground, self._cell, other, body, self._parent))

    def keep(self, state: Struct) -> None:
        """Collect the state to be saved.

        Raises:
            PreconditionFailed: a function has no state, and a machine saves its own.
            TypeError: it is no Struct, or cannot be encoded.
        """
        _check_instance(self._cell)
        if getattr(self._cell.handler, "is_machine", False):
            raise PreconditionFailed(
                f"actor {self._cell.name!r} is a Machine, which saves its state and its data itself: put it in self.data"
            )
        if not isinstance(state, Struct):  # pyright: ignore[reportUnnecessaryIsInstance] - users get it wrong
            raise TypeError(f"actor {self._cell.name!r} saves a msgspec.Struct, not {state!r}")
        try:
            encoded = msgspec.msgpack.encode(state)
        except (TypeError, ValueError, NotImplementedError, RecursionError) as error:
            raise TypeError(
                f"actor {self._cell.name!r} cannot save {state!r:.80}: {error}; save what msgspec encodes: Structs, texts, "
                "numbers, bytes, times, and lists and dicts of them"
            ) from error
        self.save = Save(self._cell.owner, encoded)

    def settle(self, state: Struct, deed: Callable[[], object]) -> None:
        """Save this of a machine, and do that once it is saved."""
        self.save = Save(self._cell.owner, msgspec.msgpack.encode(state))
        self._deeds.append(deed)

    def carry_out(self) -> None:
        """Do what was collected, in order: the commit is done."""
        deeds, self._deeds = self._deeds, []
        for deed in deeds:
            deed()


def saved_state(ground: Ground, cell: Acting, kind: type[State]) -> State | None:
    """Return the state that an actor has saved last, as a new thing of this type; None if it has saved none.

    Raises:
        PreconditionFailed: a function has no state; or what was saved is not of this type.
    """
    _check_instance(cell)
    state = ground.ledger.state_of(cell.owner)
    if state is None:
        return None
    try:
        return msgspec.msgpack.decode(state, type=kind)
    except msgspec.ValidationError as error:
        raise PreconditionFailed(
            f"what actor {cell.name!r} has saved is no {getattr(kind, '__qualname__', kind)}: {error}; ask for the type "
            "that it saves, and give new fields defaults"
        ) from error


def _check_instance(cell: Acting) -> None:
    if not isinstance(cell.handler, ClassHandler):
        raise PreconditionFailed(f"actor {cell.name!r} is a function, which has no state to save: write a class")


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not name:
        raise ValueError(f"name must be a text that is not empty, not {name!r}")
