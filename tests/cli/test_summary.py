"""What a run leaves, as tables."""

import io

import pytest
from msgspec import Struct
from rich.console import Console

from flowmesh import MailboxOptions, Mesh, Reject, Retry
from flowmesh.cli.summary import MAX_ROWS, summary_of

pytestmark = pytest.mark.anyio


class Order(Struct, frozen=True):
    number: int


def shown(mesh: Mesh, width: int = 80) -> str:
    """Return the summary as it is written into so many columns."""
    console = Console(file=io.StringIO(), width=width, highlight=False, markup=False)
    with console.capture() as capture:
        console.print(summary_of(mesh, width=console.width), crop=False)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


async def test_every_copy_is_in_the_table() -> None:
    """A row per mailbox with the numbers of its statistics; failures, unroutable messages and dead letters below."""
    mesh = Mesh("shop")
    shelf = mesh.mailbox("shelf", MailboxOptions(capacity=1, overflow="drop_newest"))

    @mesh.actor
    async def charge(order: Order) -> None:
        if order.number == 1:
            raise ValueError("no money")
        if order.number == 2:
            raise Reject("stolen card")

    @mesh.actor(retry=Retry(2, initial=0.0))
    async def ship(order: Order) -> None:
        raise OSError("no lorry")

    default = mesh.exchange("")
    async with mesh:
        for number in range(4):
            await charge.tell(Order(number))
        await ship.tell(Order(1))
        for _ in range(3):
            await default.publish(Order(0), shelf.name)
        await default.publish(Order(0), "nowhere")
        await mesh.idle()

    lines = shown(mesh, 120).splitlines()
    assert lines[:-1] == [
        "",
        "mailbox       ready  leased  delayed  acked  dead  expired  dropped",
        "shelf             1       0        0      0     0        0        2",
        "charge            0       0        0      2     2        0        0",
        "ship              0       0        0      0     1        0        0",
        "",
        "actor with failures  failed  retried",
        "charge                    2        0",
        "ship                      1        1",
        "",
        "exchange      unroutable",
        '""                     1',
        "",
        "dead letters  reason    mailbox       the latest",
        "           1  failed    charge        ValueError: no money",
        "           1  rejected  charge        stolen card",
        "           1  failed    ship          OSError: no lorry",
        "",
    ]
    assert lines[-1] == f"mesh 'shop' {mesh.report}"


async def test_calm_run_has_a_calm_summary() -> None:
    """What did not happen is not mentioned: no failures, no dead letters, no unroutable messages."""
    mesh = Mesh("calm")
    mesh.mailbox("inbox")
    async with mesh:
        pass
    assert [line.split()[0] for line in shown(mesh).splitlines() if line] == ["mailbox", "inbox", "mesh"]


async def test_rare_ends_get_a_column_when_there_are_any() -> None:
    """Withdrawn and purged copies are shown where a mailbox has some, so that the row still adds up."""
    mesh = Mesh("rare")
    inbox = mesh.mailbox("inbox")
    async with mesh:
        await mesh.exchange("").publish(Order(1), "inbox")
        inbox.purge()
    header, row = shown(mesh).splitlines()[1:3]
    assert (header.split()[-1], row.split()[-1]) == ("purged", "1")
    assert "withdrawn" not in header


async def test_foreign_text_cannot_act() -> None:
    """Names and reasons are text: no markup, no control characters, cut when they are long."""
    mesh = Mesh("evil")

    @mesh.actor(name="[bold]\x1b[2J\nname")
    async def handle(order: Order) -> None:
        raise Reject("[red]\x07" + "x" * 5000)

    async with mesh:
        await handle.tell(Order(1))
        await mesh.idle()
    text = shown(mesh, 200)
    assert r"[bold]\x1b[2J\nname" in text
    assert r"[red]\x07xxx" in text
    assert text.count("x") < 400
    assert all(line.isprintable() for line in text.splitlines())


async def test_long_name_is_folded_and_numbers_are_whole() -> None:
    """In a narrow terminal names are folded; every number can still be read, in lines longer than the terminal if need be."""
    mesh = Mesh("narrow")
    mesh.mailbox("north.of.the.river.and.south.of.the.hill")
    default = mesh.exchange("")
    async with mesh:
        for _ in range(3):
            await default.publish(Order(1), "north.of.the.river.and.south.of.the.hill")
    lines = shown(mesh, 30).splitlines()
    assert lines[1].split() == ["mailbox", "ready", "leased", "delayed", "acked", "dead", "expired", "dropped"]
    assert lines[2].split() == ["north.of.the", "3", "0", "0", "0", "0", "0", "0"]
    assert "".join(line.split()[0] for line in lines[2:6]) == "north.of.the.river.and.south.of.the.hill"


async def test_many_mailboxes_are_added_up() -> None:
    """Of thousands of mailboxes the busiest are shown; the others are one row of sums."""
    mesh = Mesh("wide")
    default = mesh.exchange("")
    for number in range(MAX_ROWS + 10):
        mesh.mailbox(f"box{number}")
    async with mesh:
        for number in range(MAX_ROWS + 10):
            await default.publish(Order(1), f"box{number}")
        await default.publish(Order(1), f"box{MAX_ROWS + 9}")
    rows = [line.split() for line in shown(mesh).splitlines()[2 : MAX_ROWS + 3]]
    assert rows[0][:2] == [f"box{MAX_ROWS + 9}", "2"]
    assert rows[-1][:3] == ["10", "others", "10"]
    assert len(rows) == MAX_ROWS + 1
