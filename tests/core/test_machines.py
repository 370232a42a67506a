"""The table of a state machine: what is done with each pair, what is unhandled, and what makes no sense."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmesh._core.diagrams import diagram_of
from flowmesh._core.machines import Handling, Machinery, Otherwise, Row, Timeout
from flowmesh.errors import InvalidHandler


class Open: ...


class Lock: ...


class Unlock: ...


UNLOCK = Row(Handling("unlock", ("closed",), goes=True), (Unlock,), ("locked",), ignore=("closed", "open"))
OPEN = Row(Handling("open", ("open",), goes=True), (Open,), ("closed",), postpone=("locked",), refuse=("open",))
SHUT = Timeout("open", 30.0, Handling("shut", ("closed",), goes=True))


def row(name: str = "take", kinds: tuple[type, ...] = (Open,), to: tuple[str, ...] = (), **said: Any) -> Row:
    """What a method of this name says."""
    return Row(Handling(name, to), kinds, **said)


def test_each_pair_has_what_its_row_says() -> None:
    """Handled, postponed, ignored, refused; and nothing for a pair of which nothing is said."""
    door = Machinery("Door", "locked", [UNLOCK, OPEN], [SHUT])
    assert door.states == ("locked", "closed", "open")
    assert door.kinds == (Unlock, Open)
    assert door.response("locked", Unlock) == UNLOCK.handling
    assert door.response("closed", Unlock) is door.response("open", Unlock) is Otherwise.IGNORE
    assert door.response("locked", Open) is Otherwise.POSTPONE
    assert door.response("closed", Open) == OPEN.handling
    assert door.response("open", Open) is Otherwise.REFUSE
    assert door.unhandled == ()
    assert door.postpones


def test_unhandled_pairs_are_listed_in_order() -> None:
    """By state, then by type, each as it was first named."""
    door = Machinery("Door", "locked", [row("unlock", (Unlock,), ("closed",), states=("locked",)), row(states=("closed",))])
    assert door.unhandled == (("locked", Open), ("closed", Unlock))
    assert door.response("locked", Open) is None
    assert not door.postpones


def test_a_row_without_states_handles_whatever_is_not_said_elsewhere() -> None:
    """In every state, also in those that only others name; its own exceptions count."""
    lock = row("lock", (Lock,), ("locked",), ignore=("locked",))
    door = Machinery("Door", "locked", [lock, UNLOCK, OPEN], [SHUT])
    assert [door.response(state, Lock) for state in door.states] == [Otherwise.IGNORE, lock.handling, lock.handling]
    special = row("slam", (Lock,), ("locked",), states=("open",))
    door = Machinery("Door", "locked", [lock, UNLOCK, OPEN, special], [SHUT])
    assert door.response("open", Lock) == special.handling


def test_transitions_are_named_by_type_and_timeout() -> None:
    """Of every state that a row stands for, to each of its targets."""
    door = Machinery("Door", "locked", [UNLOCK, OPEN, row("lock", (Lock,), ("locked",), ignore=("locked",))], [SHUT])
    assert list(door.transitions()) == [
        ("locked", "closed", "Unlock"),
        ("closed", "open", "Open"),
        ("closed", "locked", "Lock"),
        ("open", "locked", "Lock"),
        ("open", "closed", "after 30 s"),
    ]


TWICE = [row("first", states=("locked",)), row("second", states=("locked",))]


@pytest.mark.parametrize(
    "rows, timeouts, entries, text",
    [
        (TWICE, [], [], r"Open is handled by 'first' in 'locked' already, and 'second' says handled by 'second'"),
        ([row(states=("locked",), ignore=("locked",))], [], [], r"Open is handled by 'take' in 'locked' already.*says ignored"),
        ([row("first"), row("second")], [], [], r"'first' and 'second' both take Open in any state: one method for each"),
        ([row(states=("lokced",))], [], [], r"state 'lokced' is never entered: .*initial='locked'.*did you mean 'locked'\?"),
        ([row(states=("locked",))], [], [("open", "opened")], r"state 'open' is never entered"),
        (
            [row(postpone=("locked",))],
            [],
            [],
            r"'locked' is never left, so that Open, .*, would never come back",
        ),
        ([row()], [Timeout("locked", 0.0, Handling("late"))], [], r"'late' is called after 0.0 seconds: say more than zero"),
        ([row()], [Timeout("locked", float("inf"), Handling("late"))], [], r"'late' is called after inf seconds"),
        ([row()], [Timeout("locked", 1.0, Handling(name)) for name in "ab"], [], r"'a' and 'b' are both timeouts of 'locked'"),
        ([row()], [], [("locked", "a"), ("locked", "b")], r"'a' and 'b' are both called when 'locked' is entered"),
    ],
)
def test_what_makes_no_sense(rows: list[Row], timeouts: list[Timeout], entries: list[tuple[str, str]], text: str) -> None:
    """It is refused where it is made, named with its mend."""
    with pytest.raises(InvalidHandler, match=f"machine Door: .*{text}"):
        Machinery("Door", "locked", rows, timeouts, entries)


def test_a_state_that_only_enters_itself_is_not_left() -> None:
    """What it postpones would never come back."""
    again = row("again", (Lock,), ("locked",), states=("locked",))
    with pytest.raises(InvalidHandler, match="'locked' is never left"):
        Machinery("Door", "locked", [again, row(postpone=("locked",))])


def test_a_diagram_shows_transitions_and_what_is_postponed() -> None:
    """One arrow for each pair of states, named after all that takes it."""
    lock = row("lock", (Lock,), ("closed", "locked"), ignore=("locked",))
    door = Machinery("Door", "locked", [UNLOCK, OPEN, lock], [SHUT])
    assert diagram_of(door).splitlines() == [
        "stateDiagram-v2",
        "    [*] --> locked",
        "    locked --> closed: Unlock",
        "    closed --> open: Open",
        "    closed --> closed: Lock",
        "    closed --> locked: Lock",
        "    open --> closed: Lock, after 30 s",
        "    open --> locked: Lock",
        "    note right of locked: postpones Open",
    ]


def test_a_diagram_takes_any_name() -> None:
    """What Mermaid could not read stands under a number, and is shown as it is."""
    machine = Machinery("Trip", "in transit", [row(to=("end", '"a"; b'), states=("in transit",))])
    assert diagram_of(machine).splitlines() == [
        "stateDiagram-v2",
        '    state "in transit" as s0',
        '    state "end" as s1',
        '    state "#34;a#34;#59; b" as s2',
        "    [*] --> s0",
        "    s0 --> s1: Open",
        "    s0 --> s2: Open",
    ]


STATES = ("a", "b", "c")
KINDS = (Open, Lock, Unlock)
SAID = ("states", "postpone", "ignore", "refuse")


@given(st.dictionaries(st.tuples(st.sampled_from(STATES), st.sampled_from(KINDS)), st.sampled_from(SAID)))
def test_every_pair_is_said_or_unhandled(said: dict[tuple[str, type], str]) -> None:
    """Whatever is said of which pairs: the table says it back, and lists exactly the others."""
    chain = row("chain", (str,), STATES, states=STATES)
    rows = [
        row(f"row{number}", (kind,), **{option: (state,)})
        for number, ((state, kind), option) in enumerate(said.items())
        if option == "states"
    ]
    # Rows that handle nowhere would handle everywhere: the exceptions go to one that handles in a state of their own.
    rows += [row(f"no{kind.__name__}", (kind,), states=("d",), **_exceptions(said, kind)) for kind in KINDS]
    machine = Machinery("M", "a", [chain, *rows, row("more", (bytes,), ("d",), states=("a",))])
    for state, kind in itertools.product(STATES, KINDS):
        option, found = said.get((state, kind)), machine.response(state, kind)
        if option is None:
            assert found is None
            assert (state, kind) in machine.unhandled
        else:
            assert isinstance(found, Handling) if option == "states" else found is _OTHERWISE[option]
            assert (state, kind) not in machine.unhandled


_OTHERWISE = {"postpone": Otherwise.POSTPONE, "ignore": Otherwise.IGNORE, "refuse": Otherwise.REFUSE}


def _exceptions(said: dict[tuple[str, type], str], kind: type) -> dict[str, tuple[str, ...]]:
    return {option: tuple(s for (s, k), found in said.items() if k is kind and found == option) for option in _OTHERWISE}
