"""What the live view shows."""

import io
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from rich.cells import cell_len
from rich.console import Console

from flowmesh._core.gates import GateStatistics
from flowmesh._core.numbers import MailboxStatistics
from flowmesh._runtime.statistics import ActorStatistics
from flowmesh.cli.board import LATE, RERANK, Board, MeshPhase, Reading
from flowmesh.mesh import Mesh

EMPTY = Mesh("empty").statistics()
ENDS = ("ready", "leased", "delayed", "acked", "dead", "expired", "dropped", "withdrawn", "purged")


def mailbox(**numbers: float) -> MailboxStatistics:
    """A mailbox with these numbers; what has entered follows from them."""
    return structs.replace(EMPTY.dead_letters, entered=sum(numbers.get(name, 0) for name in ENDS), **numbers)


def reading(
    boxes: Mapping[str, MailboxStatistics],
    moment: float = 0.0,
    *,
    phase: MeshPhase = "running",
    deferred: int = 0,
    dead_letters: int = 0,
    workers: int = 2,
) -> Reading:
    """A reading of these mailboxes."""
    statistics = structs.replace(
        EMPTY,
        mailboxes=boxes,
        dead_letters=mailbox(ready=dead_letters),
        deferred=deferred,
        workers=workers,
        workers_parked=workers // 2,
    )
    return Reading(moment=moment, due=moment + 0.25, phase=phase, statistics=statistics)


def shown(board: Board, *, width: int = 80, height: int = 24, now: float = 0.0) -> list[str]:
    """Return the lines of the view, as a terminal of that width gets them."""
    console = Console(width=width, record=True, highlight=False, markup=False, file=io.StringIO())
    console.print(board.render(now=now, width=width, height=height))
    return [line.rstrip() for line in console.export_text().splitlines()]


def board_of(boxes: Mapping[str, MailboxStatistics], *, name: str = "shop") -> Board:
    """A board that has read these mailboxes once."""
    board = Board(name)
    board.add(reading(boxes))
    return board


def test_what_holds_messages_back_stands_in_the_head() -> None:
    """Held messages, breakers that are not closed, and restarts are named when there are any, and only then."""
    idle = ActorStatistics("work", slots=1, running=0, failed=0, retried=0, paused=False, stopped=False, held=(), progress={})
    gates = (
        GateStatistics("Rate", held=1200, dropped=0, values=1),
        GateStatistics("Breaker", held=3, dropped=0, values=1, condition="half-open"),
        GateStatistics("Breaker", held=0, dropped=0, values=1, condition="closed"),
    )
    board = Board("shop")
    for actors, facts in (
        ({"a": idle}, ""),
        ({"a": idle, "b": structs.replace(idle, gates=gates)}, "  1203 held by gates  1 breaker open"),
        ({"a": idle, "b": structs.replace(idle, restarts=2)}, "  2 restarts"),
    ):
        board.add(structs.replace(reading({}), statistics=structs.replace(EMPTY, actors=actors)))
        assert shown(board)[0] == f"shop  running  0 deferred  0 dead letters{facts}"


def test_table_at_80_columns() -> None:
    """A line about the mesh, and a row for each mailbox with right-aligned short numbers, in the order of declaration."""
    boxes = {
        "parse": mailbox(ready=998, leased=2, acked=12_345, dead=3, oldest_age=2.34),
        "orders.of.the.north.and.of.the.south": mailbox(delayed=1, acked=4_560_000),
        "idle": mailbox(),
    }
    board = Board("census")
    board.add(reading({**boxes, "idle": mailbox()}))
    board.add(reading({**boxes, "idle": mailbox(acked=44)}, 2.0, deferred=5, dead_letters=3, workers=4))
    assert shown(board) == [
        "census  running  4 workers, 2 busy  5 deferred  3 dead letters",
        "mailbox                     ready  leased  delayed  acked   dead  rate/s  oldest",
        "parse                         998       2        0  12.3k      3       0    2.3s",
        "orders.of.the…of.the.south      0       0        1  4.56M      0       0",
        "idle                            0       0        0     44      0      22",
    ]


def test_before_the_first_reading() -> None:
    """Before there are numbers the view says that the mesh starts."""
    assert shown(Board("shop")) == ["shop  starting"]


def test_phases() -> None:
    """The first line says draining, and of a mesh that has stopped nothing about workers. No mailboxes make no table."""
    board = board_of({})
    board.add(reading({}, phase="draining", dead_letters=1, workers=1))
    assert shown(board) == ["shop  draining  1 worker, 1 busy  0 deferred  1 dead letter"]
    board.add(reading({}, phase="stopped", workers=0))
    assert shown(board)[0] == "shop  stopped  0 deferred  0 dead letters"


def test_blocked_loop_is_named() -> None:
    """When the next reading is long overdue the view says so, since its numbers are old."""
    board = board_of({"parse": mailbox()})
    assert "no answer" not in shown(board, now=LATE)[0]
    assert shown(board, now=12.0)[0] == "shop  running  no answer for 12s: something blocks the event loop"
    board.add(reading({}, phase="stopped"))
    assert "no answer" not in shown(board, now=12.0)[0]


def test_rate_is_of_the_last_seconds() -> None:
    """A rate is of all copies that ended, however they did, in the last seconds; it falls to zero when nothing ends."""
    board = Board("shop")

    def rate_after(moment: float, **numbers: int) -> str:
        board.add(reading({"parse": mailbox(**numbers)}, moment))
        return shown(board, now=moment)[2].split()[6]

    assert rate_after(0.0, acked=1_000, ready=7) == "0"
    assert rate_after(1.0, acked=1_030) == "30"
    assert rate_after(2.0, acked=1_040, dead=10, expired=5, dropped=3, withdrawn=1, purged=1) == "30"
    rates = [rate_after(3.0 + step, acked=1_060) for step in range(4)]
    assert rates == ["20", "10", "0", "0"]


def test_a_new_mailbox_has_a_rate() -> None:
    """What ended in a mailbox that was declared meanwhile counts."""
    board = board_of({})
    board.add(reading({"late": mailbox(acked=10)}, 1.0))
    assert shown(board)[2].split()[6] == "10"


def test_too_many_mailboxes() -> None:
    """Of more mailboxes than fit the busiest are shown, and the others as one row of sums with the oldest age."""
    boxes = {f"box{number}": mailbox(ready=number, acked=number, oldest_age=float(number)) for number in range(100)}
    boxes["last"] = mailbox(leased=300)
    lines = shown(board_of(boxes), height=8)
    assert len(lines) == 8
    assert [line.split()[0] for line in lines[2:-1]] == ["last", "box99", "box98", "box97", "box96"]
    assert lines[-1].startswith("and 96 more")
    assert lines[-1].split()[3:] == ["4560", "0", "0", "4560", "0", "0", "95s"]


def test_rows_stay_where_they_are() -> None:
    """The choice of the busiest is made anew only every few seconds, and does not change for small differences."""
    boxes = {f"box{number}": mailbox(ready=20) for number in range(10)}
    board = board_of(boxes)

    def names(moment: float, **others: MailboxStatistics) -> list[str]:
        board.add(reading({**boxes, **others}, moment))
        return [line.split()[0] for line in shown(board, height=6, now=moment)[2:-1]]

    first = names(0.0)
    assert first == ["box0", "box1", "box2"]
    assert names(1.0, box7=mailbox(ready=900)) == first
    assert names(RERANK, box7=mailbox(ready=900), box1=mailbox(ready=19)) == ["box7", "box0", "box1"]
    assert names(2 * RERANK, box7=mailbox(ready=30), box9=mailbox(ready=31)) == ["box7", "box0", "box1"]


def test_a_deleted_mailbox_leaves_at_once() -> None:
    """A row whose mailbox is gone does not wait for the next choice."""
    boxes = {f"box{number}": mailbox() for number in range(10)}
    board = board_of(boxes)
    assert shown(board, height=6)[2].split()[0] == "box0"
    del boxes["box0"]
    board.add(reading(boxes, 0.25))
    assert shown(board, height=6)[2].split()[0] == "box1"


def test_column_widths_do_not_jump() -> None:
    """Numbers that grow, and long names that go, move no column."""
    long = "a.mailbox.with.a.long.name"
    board = board_of({"parse": mailbox(), long: mailbox()})
    before = shown(board)[1]
    board.add(reading({"parse": mailbox(ready=123_456, acked=98_765_432, oldest_age=5e5)}, 1.0))
    assert shown(board)[1] == before


def test_narrow_terminal() -> None:
    """Where there is no room for all columns the less needed ones are left out; the name and what is ready stay."""
    board = board_of({"north.of.the.river": mailbox(ready=12, acked=3)})
    assert shown(board, width=50)[1].split() == ["mailbox", "ready", "acked", "dead", "rate/s"]
    assert shown(board, width=24)[1].split() == ["mailbox", "ready"]
    assert shown(board, width=24)[2] == "north.of…he.river     12"


@pytest.mark.parametrize("height", [1, 2])
def test_flat_terminal(height: int) -> None:
    """Without room for the table the line about the mesh stays."""
    assert len(shown(board_of({"parse": mailbox()}), height=height)) == 1


HOSTILE = [
    "[bold]tea[/bold]",
    "\x1b[2J\x1b[H",
    "a\nb\r\tc",
    "right\u202eleft",
    "\udc80",
    "注文" * 40,
    "e\u0301" * 50,
    "[/]",
    ":smile:",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names(name: str) -> None:
    """Names are text: no markup, no emoji codes, no control characters, and one line of the right width each."""
    lines = shown(board_of({name: mailbox(ready=1), "calm": mailbox()}, name=name))
    assert len(lines) == 4
    assert all(line.isprintable() and cell_len(line) <= 80 for line in lines)
    if len(name) < 20 and name.isprintable():
        assert lines[2].startswith(f"{name} ")
        assert lines[0].startswith(f"{name}  running")


@given(names=st.lists(st.text(min_size=1), max_size=12, unique=True), width=st.integers(12, 130), height=st.integers(1, 12))
def test_it_always_fits(names: list[str], width: int, height: int) -> None:
    """Whatever the names and the terminal, no line is too long and there are not too many."""
    board = board_of({name: mailbox(ready=10**12, oldest_age=1e9) for name in names}, name="".join(names) or "m")
    lines = shown(board, width=width, height=height)
    assert len(lines) <= height
    assert all(cell_len(line) <= width and line.isprintable() for line in lines)


def test_terminal_that_cannot_show_everything() -> None:
    """In another encoding than UTF-8 what it lacks is shown as an escape, and the ellipsis as three dots."""
    board = Board("ascii", encoding="ascii")
    board.add(reading({"crème": mailbox(), "north.of.the.river.and.south.of.the.hill": mailbox()}))
    lines = shown(board)
    assert lines[2].startswith(r"cr\xe8me ")
    assert lines[3].startswith("north.of.the...of.the.hill ")
    assert "".join(lines).isascii()
