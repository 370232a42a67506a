"""Where one machine is: its state, and what a turn is about to make of it.

States: at rest; in a turn (`begin`), in which `become` may choose where it leads; entering (its `@enter` method runs); at rest
again, either as before (`abandon`) or as the turn has made it (`settle`, with its ack).  So a turn that fails, or is cancelled,
has never happened, and nobody else ever sees a state that is not acked.
"""

from typing import Any

from msgspec import Raw, Struct

from flowmesh._core.machines import Handling
from flowmesh.errors import InvalidHandler

__all__ = ["Change", "Position", "SavedMachine", "StateTimeout"]


class SavedMachine(Struct, frozen=True):
    """What is saved of a machine: the state, and its data encoded."""

    state: str
    data: Raw = Raw()


class StateTimeout(Struct, frozen=True):
    """The message that tells a machine that its state has lasted. `number`: no other timeout of its actor has it."""

    number: int


class Change(Struct, frozen=True):
    """What a turn makes of a machine. `enters`: it enters `state`, be it anew."""

    state: str
    enters: bool
    data: Any


class Position:
    """Where one machine is. `data`: as of the last ack."""

    __slots__ = ("_chosen", "_entering", "_handling", "data", "name", "state")

    def __init__(self, name: str, state: str) -> None:
        self.name = name
        self.state = state
        self.data: Any = None
        self._handling: Handling | None = None
        self._chosen: str | None = None
        self._entering: str | None = None

    @property
    def current(self) -> str:
        """The state, as the machine's own code sees it: an `@enter` method sees the one that is entered."""
        return self.state if self._entering is None else self._entering

    def begin(self, handling: Handling) -> None:
        """Begin a turn."""
        self._handling, self._chosen, self._entering = handling, None, None

    def choose(self, state: str) -> None:
        """Choose where the turn leads.

        Raises:
            InvalidHandler: outside of a turn, when a state is entered, or where its handler has not said that it may.
        """
        handling = self._handling
        if self._entering is not None:
            raise InvalidHandler(
                f"machine {self.name!r} is entering {self._entering!r}: an @enter method cannot lead elsewhere; tell the "
                "machine a message of its own instead"
            )
        if handling is None:
            raise InvalidHandler(
                f"machine {self.name!r} is in no turn: it changes state when it handles a message; tell it one"
            )
        if state not in handling.targets:
            raise InvalidHandler(
                f"machine {self.name!r}: {handling.method!r} cannot lead from {self.state!r} to {state!r}: name that state in "
                f"its to= ({', '.join(map(repr, handling.targets)) or 'it has none'})"
            )
        self._chosen = state

    def leads_to(self) -> str | None:
        """Return the state that the handler, which has returned, leads to; it is being entered now. None if it stays."""
        handling = self._handling
        assert handling is not None
        self._entering = handling.targets[0] if handling.goes else self._chosen
        return self._entering

    def change(self, data: Any) -> Change | None:
        """End the turn; return what it makes of the machine, if it does."""
        entered = self._entering
        self.abandon()
        if entered is None and data is self.data:
            return None
        return Change(self.state if entered is None else entered, entered is not None, data)

    def abandon(self) -> None:
        """Forget the turn."""
        self._handling = self._chosen = self._entering = None

    def settle(self, change: Change) -> bool:
        """Be what a turn has made of the machine: it is acked. True if the state is another one."""
        is_other = change.state != self.state
        self.state, self.data = change.state, change.data
        return is_other
