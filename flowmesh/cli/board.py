"""What the live view shows: a line about the mesh, and a row for each mailbox.

It is calm: the order of the rows and the widths of the columns change as seldom as they can.  Rows stand in the order of
declaration while all fit; of too many the busiest are shown, chosen anew every few seconds, and the others are one row of
sums.  The column of names only gets wider, those of numbers have one width.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Final, Literal

from msgspec import Struct
from rich.cells import cell_len
from rich.text import Text

from flowmesh._core.numbers import MailboxStatistics
from flowmesh._runtime.statistics import ActorStatistics, Statistics
from flowmesh.cli.numbers import short_age, short_count, short_name, short_rate
from flowmesh.cli.plain import visible

__all__ = ["Board", "MeshPhase", "Reading"]

MeshPhase = Literal["starting", "running", "draining", "stopped"]

WINDOW: Final = 3.0
"""Seconds over which a rate is taken."""
RERANK: Final = 5.0
"""Seconds between two choices of the busiest mailboxes."""
LATE: Final = 2.0
"""Seconds after which a reading that does not come is missed."""
NAME_WIDTH: Final = 14
MIN_NAME_WIDTH: Final = 8
HEAD_NAME_WIDTH: Final = 20
GAP: Final = 2

_PHASES: Final = {"starting": "yellow", "running": "green", "draining": "bold yellow", "stopped": "bold"}
_WIDTHS: Final = {"ready": 5, "leased": 6, "delayed": 7, "acked": 5, "dead": 5, "rate/s": 6, "oldest": 6}
_LEAST_NEEDED: Final = ("delayed", "oldest", "leased", "rate/s", "acked", "dead")
"""What is left out first where there is no room for all columns."""


class Reading(Struct, frozen=True):
    """The numbers of one moment. `moment`: when, `due`: when the next is expected, both in seconds of one clock."""

    moment: float
    due: float
    phase: MeshPhase
    statistics: Statistics


class _Row(Struct, frozen=True):
    ready: int
    leased: int
    delayed: int
    acked: int
    dead: int
    rate: float
    oldest_age: float | None


class Board:
    """The view of one mesh; made of its readings in the order in which they were taken."""

    def __init__(self, name: str, *, encoding: str = "utf-8") -> None:
        """Show nothing yet.

        Args:
            name: of the mesh.
            encoding: of the terminal; what it lacks is shown as an escape.
        """
        self._encoding = encoding
        self._ellipsis = "…" if self._shown("…") == "…" else "..."
        self._name = self._shown(name)
        self._readings: deque[Reading] = deque()
        self._ranking: list[str] = []
        self._ranked_at = 0.0
        self._places = 0
        self._name_width = NAME_WIDTH

    def add(self, reading: Reading) -> None:
        """Take a reading in; of the earlier ones those that the rates need are kept."""
        readings = self._readings
        readings.append(reading)
        while len(readings) > 2 and readings[1].moment <= reading.moment - WINDOW:
            readings.popleft()

    def render(self, *, now: float, width: int, height: int) -> Text:
        """Return the view of the last reading.

        Args:
            now: seconds of the readings' clock.
            width: columns; no line is longer.
            height: lines; there are never more.
        """
        lines = [self._head(now)]
        if self._readings and self._readings[-1].statistics.mailboxes and height >= 3:
            lines += self._table(width, height - 2)
        for line in lines:
            line.truncate(width)
        # Not a rich Table: with columns of known widths it would do the same at ten times the cost.
        return Text("\n", no_wrap=True).join(lines)

    # The line about the mesh

    def _head(self, now: float) -> Text:
        name = Text(short_name(self._name, HEAD_NAME_WIDTH, self._ellipsis), style="bold")
        if not self._readings:
            return Text.assemble(name, "  starting")
        last = self._readings[-1]
        statistics = last.statistics
        dead, busy = statistics.dead_letters.ready, statistics.workers - statistics.workers_parked
        facts = [(f"{_many(statistics.workers, 'worker')}, {short_count(busy)} busy", "")] if statistics.workers else []
        facts += [
            (f"{short_count(statistics.deferred)} deferred", ""),
            (_many(dead, "dead letter"), "red" if dead else ""),
            *_troubles(statistics.actors.values()),
        ]
        if now - last.due > LATE and last.phase != "stopped":
            facts = [(f"no answer for {short_age(now - last.moment)}: something blocks the event loop", "bold red")]
        head = Text.assemble(name, "  ", (last.phase, _PHASES[last.phase]))
        for fact in facts:
            head.append_text(Text.assemble("  ", fact))
        return head

    # The mailboxes

    def _table(self, width: int, places: int) -> list[Text]:
        boxes = self._readings[-1].statistics.mailboxes
        names = self._choose(boxes, places)
        columns = self._columns(names, width)
        lines = [self._line(Text("mailbox", "bold"), [Text(column, "bold") for column in columns], columns)]
        for name in names:
            shown = short_name(self._shown(name), self._name_width, self._ellipsis)
            lines.append(self._line(Text(shown), self._cells(self._row(name, boxes[name]), columns), columns))
        if len(names) < len(boxes):
            chosen = set(names)
            rest = _sum(self._row(name, box) for name, box in boxes.items() if name not in chosen)
            label = Text(f"and {short_count(len(boxes) - len(names))} more", "dim")
            lines.append(self._line(label, self._cells(rest, columns), columns))
        return lines

    def _line(self, name: Text, cells: Iterable[Text], columns: Iterable[str]) -> Text:
        """Return the name and, right-aligned, the cells."""
        name.align("left", self._name_width)
        for cell, column in zip(cells, columns, strict=True):
            cell.align("right", _WIDTHS[column] + GAP)
            name.append_text(cell)
        return name

    def _choose(self, boxes: Mapping[str, MailboxStatistics], places: int) -> list[str]:
        """Return the names of the mailboxes that get one of the places, in order."""
        if len(boxes) <= places:
            self._ranking = []
            return list(boxes)
        moment = self._readings[-1].moment
        is_due = moment - self._ranked_at >= RERANK or places != self._places
        if not self._ranking or is_due or not all(name in boxes for name in self._ranking):
            busy = {name: _busyness(self._row(name, box)) for name, box in boxes.items()}
            shown = {name: position for position, name in enumerate(self._ranking)}
            # By magnitude first: of mailboxes that are about equally busy those that are shown stay, where they are.
            ranking = sorted(
                boxes, key=lambda name: (-round(busy[name]).bit_length(), shown.get(name, len(boxes)), -busy[name])
            )
            self._ranking, self._ranked_at, self._places = ranking[: max(0, places - 1)], moment, places
        return self._ranking

    def _columns(self, names: list[str], width: int) -> list[str]:
        """Return the columns for which there is room, and give the names what they need of the rest."""
        columns = list(_WIDTHS)
        for column in _LEAST_NEEDED:
            if self._room(columns, width) >= NAME_WIDTH:
                break
            columns.remove(column)
        longest = max((cell_len(self._shown(name)) for name in names), default=0)
        self._name_width = max(MIN_NAME_WIDTH, min(max(self._name_width, longest), self._room(columns, width)))
        return columns

    def _room(self, columns: Iterable[str], width: int) -> int:
        return width - sum(_WIDTHS[column] + GAP for column in columns)

    def _row(self, name: str, box: MailboxStatistics) -> _Row:
        return _Row(box.ready, box.leased, box.delayed, box.acked, box.dead, self._rate(name, box), box.oldest_age)

    def _rate(self, name: str, box: MailboxStatistics) -> float:
        """Return how many copies ended per second, over the last seconds."""
        first, last = self._readings[0], self._readings[-1]
        before = first.statistics.mailboxes.get(name)
        if last.moment <= first.moment:
            return 0.0
        return max(0, _ended(box) - (_ended(before) if before else 0)) / (last.moment - first.moment)

    def _cells(self, row: _Row, columns: Iterable[str]) -> list[Text]:
        age = "" if row.oldest_age is None else short_age(row.oldest_age)
        cells = {
            "ready": _cell(row.ready),
            "leased": _cell(row.leased),
            "delayed": _cell(row.delayed),
            "acked": _cell(row.acked),
            "dead": _cell(row.dead, "red"),
            "rate/s": Text(short_rate(row.rate), style="" if row.rate else "dim"),
            "oldest": Text(age),
        }
        return [cells[column] for column in columns]

    def _shown(self, text: str) -> str:
        return visible(text).encode(self._encoding, "backslashreplace").decode(self._encoding)


def _troubles(actors: Iterable[ActorStatistics]) -> list[tuple[str, str]]:
    """Return what holds messages back, or has failed: nothing, of a mesh without gates and restarts."""
    actors = list(actors)
    held = sum(gate.held for actor in actors for gate in actor.gates)
    broken = sum(gate.condition not in (None, "closed") for actor in actors for gate in actor.gates)
    restarts = sum(actor.restarts for actor in actors)
    facts = [
        (held, f"{short_count(held)} held by gates", ""),
        (broken, f"{_many(broken, 'breaker')} open", "red"),
        (restarts, _many(restarts, "restart"), "yellow"),
    ]
    return [(text, style) for number, text, style in facts if number]


def _ended(box: MailboxStatistics) -> int:
    return box.entered - box.ready - box.leased - box.delayed


def _sum(rows: Iterable[_Row]) -> _Row:
    rows = list(rows)
    ages = [row.oldest_age for row in rows if row.oldest_age is not None]
    return _Row(
        ready=sum(row.ready for row in rows),
        leased=sum(row.leased for row in rows),
        delayed=sum(row.delayed for row in rows),
        acked=sum(row.acked for row in rows),
        dead=sum(row.dead for row in rows),
        rate=sum(row.rate for row in rows),
        oldest_age=max(ages, default=None),
    )


def _busyness(row: _Row) -> float:
    """Return what is under way in a mailbox, and what ends in it per second."""
    return row.ready + row.leased + row.delayed + row.rate


def _many(number: int, noun: str) -> str:
    return f"{short_count(number)} {noun}{'' if number == 1 else 's'}"


def _cell(number: int, style: str = "") -> Text:
    return Text(short_count(number), style=style if number else "dim")
