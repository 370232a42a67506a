"""`flowmesh dead`: the dead letters in a file, listed, shown, put back, forgotten."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SHOP = """
    import os
    from msgspec import Struct
    from flowmesh import ActorContext, Context, Mesh, Reject

    mesh = Mesh("shop")

    class Order(Struct, frozen=True):
        id: str
        amount: float

    @mesh.actor
    async def charge(order: Order, ctx: Context) -> None:
        if len(ctx.message.deaths) == 0:
            raise Reject("no such card")
        print("charged", order.id, ctx.attempt, ctx.redelivered, ctx.message.deaths[0].reason)

    @mesh.actor
    async def ship(order: Order) -> None:
        raise OSError("no\\x07 ship")

    @mesh.source
    async def customers(ctx: ActorContext) -> None:
        if "OPEN" in os.environ:
            await charge.tell(Order("a", 1.5), message_id="one", headers={"x-shop": "north"})
            await charge.tell(Order("b", 2.5), message_id="two")
            await ship.tell(Order("c", 3.5), message_id="three")
        await mesh.idle()
        mesh.stop()
"""

Write = Callable[[str, str], Path]
Flowmesh = Callable[..., Any]


@pytest.fixture(autouse=True)
def shop(write: Write, flowmesh: Flowmesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shop whose store has three dead letters."""
    write("shop.py", SHOP)
    write("again.py", SHOP)
    monkeypatch.setenv("OPEN", "1")
    assert flowmesh("run", "shop.py", "--store", "shop.db", "--log-level", "critical").code == 0
    monkeypatch.delenv("OPEN")


def listed(flowmesh: Flowmesh, *options: str) -> list[str]:
    """Return the ids that `dead list` has."""
    outcome = flowmesh("dead", "list", "shop.db", *options)
    assert outcome.code == 0
    return [line.split()[0] for line in outcome.out.splitlines()[1:]]


@pytest.mark.parametrize(
    "options, ids",
    [
        ((), ["one", "two", "three"]),
        (("--mailbox", "ship"), ["three"]),
        (("--reason", "rejected"), ["one", "two"]),
        (("--limit", "1"), ["one"]),
        (("--mailbox", "nowhere"), []),
    ],
)
def test_list(flowmesh: Flowmesh, options: tuple[str, ...], ids: list[str]) -> None:
    """The oldest first, of a mailbox, for a reason, as many as are wanted."""
    assert listed(flowmesh, *options) == ids


def test_list_says_where_and_why(flowmesh: Flowmesh) -> None:
    """A line has the mailbox, the reason, the body's type and the detail, with nothing in it that moves a cursor."""
    line = flowmesh("dead", "list", "shop.db").out.splitlines()[3]
    assert line.split()[3:] == ["failed", "ship", "Order", "OSError:", "no\\x07", "ship"]


def test_list_changes_nothing(flowmesh: Flowmesh, folder: Path) -> None:
    """The file is the same afterwards, byte for byte."""
    before = (folder / "shop.db").read_bytes()
    listed(flowmesh)
    assert (folder / "shop.db").read_bytes() == before


def test_show(flowmesh: Flowmesh) -> None:
    """The message, its deaths and its decoded body."""
    outcome = flowmesh("dead", "show", "shop.db", "one")
    assert outcome.code == 0
    for text in (
        "message         one\n",
        "type            Order\n",
        "key             charge\n",
        "headers         {'x-shop': 'north'}\n",
        "deaths          rejected in 'charge', once at ",
        ": no such card\n",
        "body\n    {'id': 'a', 'amount': 1.5}\n",
    ):
        assert text in outcome.out


def test_show_of_what_is_not_there_is_1(flowmesh: Flowmesh) -> None:
    """The id is named."""
    outcome = flowmesh("dead", "show", "shop.db", "four")
    assert (outcome.code, outcome.out) == (1, "")
    assert "there is no such dead letter 'four'" in outcome.err


def test_replayed_letter_is_handled_again(flowmesh: Flowmesh) -> None:
    """It is back in its mailbox with fresh attempts and its history; the others stay."""
    outcome = flowmesh("dead", "replay", "shop.db", "one")
    assert (outcome.code, outcome.out) == (0, "1 dead letter put back\n")
    assert listed(flowmesh) == ["two", "three"]
    assert "charged a 1 False rejected\n" in flowmesh("run", "again.py", "--store", "shop.db").out


def test_replay_all_of_a_mailbox(flowmesh: Flowmesh) -> None:
    """--all, narrowed."""
    assert flowmesh("dead", "replay", "shop.db", "--all", "--mailbox", "charge").out == "2 dead letters put back\n"
    assert listed(flowmesh) == ["three"]


def test_purge(flowmesh: Flowmesh) -> None:
    """What is named is gone for good."""
    outcome = flowmesh("dead", "purge", "shop.db", "one", "three")
    assert (outcome.code, outcome.out) == (0, "2 dead letters forgotten\n")
    assert listed(flowmesh) == ["two"]
    assert flowmesh("dead", "purge", "shop.db", "--all").code == 0
    assert listed(flowmesh) == []


@pytest.mark.parametrize("command", ["purge", "replay"])
def test_help_names_what_is_to_be_typed(flowmesh: Flowmesh, command: str) -> None:
    """The line of usage has the arguments' own names, and each is said to be what it is."""
    lines = flowmesh("dead", command, "--help").out.splitlines()
    assert lines[0] == f"Usage: flowmesh dead {command} [OPTIONS] FILE [IDS...]"
    assert any("FILE  the file of the store." in line for line in lines)
    assert any("IDS   which letters: the ids of their messages" in line for line in lines)


@pytest.mark.parametrize("command", ["purge", "replay"])
def test_what_is_not_there_is_1(flowmesh: Flowmesh, command: str) -> None:
    """An id that is none is named; the others are dealt with."""
    outcome = flowmesh("dead", command, "shop.db", "one", "four")
    assert outcome.code == 1
    assert outcome.out.startswith("1 dead letter ")
    assert "there is no such dead letter 'four'" in outcome.err
    assert listed(flowmesh) == ["two", "three"]


@pytest.mark.parametrize("command", ["purge", "replay"])
@pytest.mark.parametrize("options", [(), ("one", "--all")])
def test_letters_must_be_meant(flowmesh: Flowmesh, command: str, options: tuple[str, ...]) -> None:
    """Neither ids nor --all, or both of them, is refused."""
    outcome = flowmesh("dead", command, "shop.db", *options)
    assert outcome.code == 2
    assert "their ids, or --all" in outcome.err
    assert listed(flowmesh) == ["one", "two", "three"]
