"""What a run leaves, as tables: mailboxes, failures of actors, dead letters by reason, and what the drain left.

The numbers are those of `mesh.statistics()` and `mesh.report`; nothing is computed here but sums.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flowmesh._runtime.statistics import Statistics
from flowmesh.cli.plain import visible
from flowmesh.mesh import Mesh

__all__ = ["summary_of"]

MAX_ROWS: Final = 50
"""A mesh may have thousands of mailboxes: the busiest are shown, the others added up."""
MAX_TEXT: Final = 160
NAME_WIDTH: Final = 12
GAP: Final = 2

_ALWAYS: Final = ("ready", "leased", "delayed", "acked", "dead", "expired", "dropped")
_WHEN_ANY: Final = ("withdrawn", "purged")


def summary_of(mesh: Mesh, *, width: int) -> RenderableType:
    """Return what there is to say about the mesh's last run.

    Args:
        mesh: one that has stopped.
        width: columns that there are. Names are folded to fit; a number is never cut, though a line may get longer.
    """
    statistics = mesh.statistics()
    parts = [
        _mailboxes(statistics, width),
        _failures(statistics, width),
        _unroutable(statistics, width),
        _dead_letters(mesh),
        Text(visible(f"mesh {mesh.name!r} {mesh.report}")),
    ]
    return Group(*(line for part in parts if part is not None for line in (Text(), part)))


def _mailboxes(statistics: Statistics, width: int) -> Table | None:
    boxes = statistics.mailboxes
    columns = _ALWAYS + tuple(name for name in _WHEN_ANY if any(getattr(box, name) for box in boxes.values()))
    rows = [(name, [getattr(box, column) for column in columns]) for name, box in boxes.items()]
    return _counts("mailbox", columns, rows, width)


def _failures(statistics: Statistics, width: int) -> Table | None:
    failing = ((name, actor) for name, actor in statistics.actors.items() if actor.failed or actor.retried)
    rows = [(name, [actor.failed, actor.retried]) for name, actor in failing]
    return _counts("actor with failures", ("failed", "retried"), rows, width)


def _unroutable(statistics: Statistics, width: int) -> Table | None:
    rows = [(name or '""', [count]) for name, count in statistics.unroutable.items() if count]
    return _counts("exchange", ("unroutable",), rows, width)


def _dead_letters(mesh: Mesh) -> RenderableType | None:
    """The dead letters that rest in the mesh, by reason and mailbox, each with the newest letter's own text."""
    letters = mesh.dead_letters.list(limit=max(1, len(mesh.dead_letters)))
    if not letters:
        return None
    counts: Counter[tuple[str, str]] = Counter()
    details: dict[tuple[str, str], str] = {}
    for letter in letters:
        death = letter.deaths[0]
        counts[death.reason, death.mailbox] += 1
        details[death.reason, death.mailbox] = death.detail
    table = _table()
    table.add_column("dead letters", justify="right", no_wrap=True)
    table.add_column("reason", no_wrap=True)
    table.add_column("mailbox", overflow="fold", min_width=NAME_WIDTH)
    table.add_column("the latest", overflow="fold")
    rows = sorted(counts.items(), key=lambda row: (-row[1], row[0][1], row[0][0]))
    for (reason, mailbox), count in rows[:MAX_ROWS]:
        table.add_row(f"{count:,}", reason, Text(visible(mailbox)), Text(_shortened(visible(details[reason, mailbox]))))
    return table


def _counts(what: str, columns: Sequence[str], rows: Sequence[tuple[str, list[int]]], width: int) -> Table | None:
    """A table of names and numbers, in the order given; of too many rows the largest, and the others' sums."""
    if not rows:
        return None
    table = _table()
    table.add_column(what, overflow="fold", min_width=NAME_WIDTH)
    least = NAME_WIDTH
    for position, column in enumerate(columns):
        table.add_column(column, justify="right", no_wrap=True)
        least += GAP + max(len(column), *(len(f"{numbers[position]:,}") for _, numbers in rows))
    if least > width:
        table.width = least
    if len(rows) > MAX_ROWS:
        rows = sorted(rows, key=lambda row: sum(row[1]), reverse=True)
    for name, numbers in rows[:MAX_ROWS]:
        table.add_row(Text(visible(name)), *map(_number, numbers))
    if others := rows[MAX_ROWS:]:
        sums = map(sum, zip(*(numbers for _, numbers in others), strict=True))
        table.add_row(Text(f"{len(others):,} others", style="dim"), *map(_number, sums))
    return table


def _table() -> Table:
    return Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 3]}..."


def _number(number: int) -> Text:
    return Text(f"{number:,}", style="" if number else "dim")
