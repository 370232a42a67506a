"""The table of a state machine: for each pair of a state and a message type, what is done with such a message there.

Pure data, checked when it is made: every state that is named can be entered, no pair is stated twice, what is postponed can
come back, and a state has one timeout.  A row states what one handler says of its types: where it handles them and where they
are postponed, ignored or refused.  A row without states handles its types wherever no other row says anything of the pair.
Pairs of which nobody says anything are `unhandled`, in the order of states and types.

The rules are those of Erlang's gen_statem: what is postponed comes back when the state changes, and a state's timeout ends
with the state.  A target that is the state itself enters it anew, which is no change: its timeout begins again.
"""

import difflib
import enum
import math
from collections.abc import Iterable, Iterator
from typing import Final

from msgspec import Struct

from flowmesh.errors import InvalidHandler

__all__ = ["Handling", "Machinery", "Otherwise", "Response", "Row", "Timeout"]


class Otherwise(enum.Enum):
    """What is done with a message that no handler is given."""

    POSTPONE = "postponed"
    IGNORE = "ignored"
    REFUSE = "refused"


class Handling(Struct, frozen=True):
    """A handler is given it. `targets`: the states that it may lead to; `goes`: it leads to the only one, unasked."""

    method: str
    targets: tuple[str, ...] = ()
    goes: bool = False


Response = Handling | Otherwise


class Row(Struct, frozen=True):
    """What one handler says of its types. `states`: where it handles them; empty: wherever nothing else is said."""

    handling: Handling
    kinds: tuple[type, ...]
    states: tuple[str, ...] = ()
    postpone: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    refuse: tuple[str, ...] = ()

    def said(self) -> Iterator[tuple[str, Response]]:
        """Give each state that it names, and what is done there."""
        yield from ((state, self.handling) for state in self.states)
        for otherwise, states in (
            (Otherwise.POSTPONE, self.postpone),
            (Otherwise.IGNORE, self.ignore),
            (Otherwise.REFUSE, self.refuse),
        ):
            yield from ((state, otherwise) for state in states)


class Timeout(Struct, frozen=True):
    """What is done when a state has lasted for `delay` seconds."""

    state: str
    delay: float
    handling: Handling


NO_RESPONSES: Final[dict[type, Response]] = {}


class Machinery:
    """The table of one machine. `states`, `kinds`: all that are named, the initial state first; `entries`: state to method.

    Args:
        place: names the class in errors.
        initial: the state it begins in.
        rows: of its handlers.
        timeouts: of its states.
        entries: pairs of a state and the method that is called when it is entered.

    Raises:
        InvalidHandler: it makes no sense; naming what and how to mend it.
    """

    def __init__(
        self,
        place: str,
        initial: str,
        rows: Iterable[Row],
        timeouts: Iterable[Timeout] = (),
        entries: Iterable[tuple[str, str]] = (),
    ) -> None:
        self._place = place
        self.initial = initial
        self.rows = tuple(rows)
        self.kinds: tuple[type, ...] = tuple(dict.fromkeys(kind for row in self.rows for kind in row.kinds))
        self.timeouts: dict[str, Timeout] = {}
        self.entries: dict[str, str] = {}
        for timeout in timeouts:
            self._add_timeout(timeout)
        for state, method in entries:
            if state in self.entries:
                raise self._invalid(
                    f"{self.entries[state]!r} and {method!r} are both called when {state!r} is entered: one method"
                )
            self.entries[state] = method
        self.states = tuple(dict.fromkeys(self._names()))
        self._table: dict[str, dict[type, Response]] = {state: {} for state in self.states}
        for row in self.rows:
            self._add_row(row)
        for row in self.rows:
            if not row.states:
                self._fill(row)
        self.unhandled: tuple[tuple[str, type], ...] = tuple(
            (state, kind) for state in self.states for kind in self.kinds if kind not in self._table[state]
        )
        self._check_states()

    def response(self, state: str, kind: type) -> Response | None:
        """Return what is done with a message of one of its types in a state; None for an unhandled pair."""
        return self._table.get(state, NO_RESPONSES).get(kind)

    @property
    def postpones(self) -> bool:
        """Some pair is postponed."""
        return any(row.postpone for row in self.rows)

    def transitions(self) -> Iterator[tuple[str, str, str]]:
        """Give each transition: from, to, and what leads there (a type's name, or "after 30 s")."""
        for state in self.states:
            for kind in self.kinds:
                found = self.response(state, kind)
                if isinstance(found, Handling):
                    yield from ((state, target, kind.__name__) for target in found.targets)
            timeout = self.timeouts.get(state)
            if timeout is not None:
                yield from ((state, target, f"after {timeout.delay:g} s") for target in timeout.handling.targets)

    def postponed_in(self, state: str) -> tuple[type, ...]:
        """Return the types that are postponed in a state."""
        return tuple(kind for kind in self.kinds if self.response(state, kind) is Otherwise.POSTPONE)

    # Building

    def _names(self) -> Iterator[str]:
        yield self.initial
        for row in self.rows:
            yield from (state for state, _ in row.said())
            yield from row.handling.targets
        for state, timeout in self.timeouts.items():
            yield state
            yield from timeout.handling.targets
        yield from self.entries

    def _add_timeout(self, timeout: Timeout) -> None:
        state, method = timeout.state, timeout.handling.method
        if not 0 < timeout.delay < math.inf:
            raise self._invalid(f"{method!r} is called after {timeout.delay!r} seconds: say more than zero")
        if state in self.timeouts:
            first = self.timeouts[state].handling.method
            raise self._invalid(f"{first!r} and {method!r} are both timeouts of {state!r}: a state has one")
        self.timeouts[state] = timeout

    def _add_row(self, row: Row) -> None:
        method = row.handling.method
        for state, response in row.said():
            for kind in row.kinds:
                known = self._table[state].get(kind)
                if known is not None:
                    raise self._invalid(
                        f"{kind.__name__} is {_done(known)} in {state!r} already, and {method!r} says {_done(response)}: "
                        "say one thing of each pair"
                    )
                self._table[state][kind] = response

    def _fill(self, row: Row) -> None:
        for state in self.states:
            for kind in row.kinds:
                known = self._table[state].setdefault(kind, row.handling)
                if isinstance(known, Handling) and known != row.handling and not self._is_stated(state, kind):
                    raise self._invalid(
                        f"{known.method!r} and {row.handling.method!r} both take {kind.__name__} in any state: one method "
                        "for each"
                    )

    def _is_stated(self, state: str, kind: type) -> bool:
        return any(kind in row.kinds and any(said == state for said, _ in row.said()) for row in self.rows)

    def _check_states(self) -> None:
        entered = {self.initial} | {target for _, target, _ in self.transitions()}
        left = {state for state, target, _ in self.transitions() if target != state}
        for state in self.states:
            if state not in entered:
                raise self._invalid(
                    f"state {state!r} is never entered: it is not initial={self.initial!r}, and no to= names it"
                    f"{_meant(state, entered)}"
                )
            postponed = self.postponed_in(state)
            if postponed and state not in left:
                raise self._invalid(
                    f"{state!r} is never left, so that {postponed[0].__name__}, which it postpones, would never come back: "
                    "ignore or refuse it there"
                )

    def _invalid(self, what: str) -> InvalidHandler:
        return InvalidHandler(f"machine {self._place}: {what}")


def _done(response: Response) -> str:
    return f"handled by {response.method!r}" if isinstance(response, Handling) else response.value


def _meant(state: str, entered: set[str]) -> str:
    near = difflib.get_close_matches(state, sorted(entered), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
