"""How results are shown: a Markdown table for people, JSON for machines."""

import os
import platform
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from benchmarks.harness import Row

__all__ = ["Report", "Surroundings", "show", "surroundings", "table", "write_json"]

_HEADINGS = ("scenario", "figure", "backend", "median", "low … high", "gate", "goal", "verdict", "µs")


class Surroundings(Struct, frozen=True):
    """Where and how the figures were measured. `pinned`: the core, or None."""

    python: str
    implementation: str
    platform: str
    cores: int | None
    pinned: int | None
    repeats: int
    scale: float


class Report(Struct, frozen=True):
    """All rows of one run, with their surroundings."""

    surroundings: Surroundings
    rows: Sequence[Row]

    @property
    def failed(self) -> list[Row]:
        """The rows above their gate."""
        return [row for row in self.rows if row.verdict == "FAIL"]


def surroundings(*, pinned: int | None, repeats: int, scale: float) -> Surroundings:
    """Describe this interpreter and machine; no host names."""
    return Surroundings(
        python=platform.python_version(),
        implementation=platform.python_implementation(),
        platform=f"{platform.system()} {platform.machine()}",
        cores=os.cpu_count(),
        pinned=pinned,
        repeats=repeats,
        scale=scale,
    )


def table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose columns also line up as plain text."""
    widths = [max(len(line[column]) for line in (headings, *lines)) for column in range(len(headings))]

    def draw(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    return "\n".join([draw(headings), draw(["-" * width for width in widths]), *map(draw, lines)])


def show(report: Report) -> str:
    """Return the table of the rows, under a line that says where they come from and what the units cost here."""
    where = report.surroundings
    pinned = "not pinned" if where.pinned is None else f"pinned to core {where.pinned} of {where.cores}"
    references = sorted({(row.unit, row.reference) for row in report.rows if row.unit not in ("ms", "B")})
    costs: dict[str, list[float]] = {}
    for unit, nanoseconds in references:
        costs.setdefault(unit, []).append(nanoseconds / 1000)
    units = "".join(f" · {unit} = {min(found):.2f}–{max(found):.2f} µs" for unit, found in costs.items())
    head = (
        f"{where.implementation} {where.python} on {where.platform} · {pinned} · "
        f"medians of {where.repeats} · scale {where.scale:g}{units}"
    )
    return f"{head}\n\n{table(_HEADINGS, [_cells(row) for row in report.rows])}"


def write_json(report: Report, path: Path) -> None:
    """Write the report, indented."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.scenario,
        row.figure,
        row.backend,
        f"{row.median:.2f} {row.unit}",
        f"{row.low:.2f} … {row.high:.2f}",
        "" if row.gate is None else f"{row.gate:g}",
        "" if row.goal is None else f"{row.goal:g}",
        row.verdict,
        "" if row.unit == "B" else f"{row.nanoseconds / 1000:.3f}",
    )
