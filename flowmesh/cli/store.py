"""`flowmesh store`: look at a store's file, and copy what is good out of a damaged one."""

from pathlib import Path
from typing import Final

from cyclopts import App
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flowmesh.cli.numbers import many
from flowmesh.cli.output import EXIT_FAILED, complain, console, refuse, show
from flowmesh.cli.plain import visible
from flowmesh.errors import StoreError
from flowmesh.stores import inspecting
from flowmesh.stores.salvage import salvage as salvage_file

__all__ = ["store"]

store = App(
    name="store",
    help="""Look at the file of a store, and mend it. No process may have it open.

    Exit codes: 0, 1 when something of the file is damaged or in quarantine, or 2 when it is in use, not there, or no store.
    """,
    help_format="markdown",
)


_KINDS: Final = {"saved": "saved states of actors", "saved of": "saved states of instances"}
"""How kinds of kept values are called that do not say it themselves."""


@store.command
def info(file: Path, /) -> int:
    """Say what is in a store: how many messages in which mailbox, deferred messages, kept values. Changes nothing.

    Args:
        file: the file of the store.
    """
    try:
        found = inspecting.info(file)
    except StoreError as error:
        return refuse(str(error))
    kept = ", ".join(f"{count:,} {_KINDS.get(kind, visible(kind))}" for kind, count in found.kept.items()) or "none"
    facts = [
        f"store {visible(found.path)}, version {found.version}",
        f"{_bytes(found.size)}, and {_bytes(found.log_size)} in its log",
        f"deferred messages: {found.timers:,}",
        f"kept values: {kept}",
        f"in quarantine: {found.quarantined:,}",
    ]
    parts: list[RenderableType] = [Text("\n".join(facts))]
    if found.mailboxes:
        table = _table("mailbox", "messages")
        for name, copies in found.mailboxes.items():
            table.add_row(Text(visible(name)), Text(f"{copies:,}", style="" if copies else "dim"))
        parts += [Text(), table]
    show(Group(*parts), console())
    return EXIT_FAILED if found.quarantined else 0


@store.command
def check(file: Path, /) -> int:
    """Compare everything in a store with its checksums, and say what is not as it was written. Changes nothing.

    Args:
        file: the file of the store.
    """
    try:
        found = inspecting.check(file)
    except StoreError as error:
        return refuse(str(error))
    lines = [f"{many(found.rows, 'row')} compared"]
    lines += [visible(problem) for problem in found.problems]
    if found.more:
        lines.append(f"and {found.more:,} more")
    if found.quarantined:
        lines.append(f"{many(found.quarantined, 'row')} in quarantine: damaged, and kept aside")
    sound = "sound, but for what is in quarantine" if found.quarantined else "sound"
    lines.append(sound if found.is_sound else f"damaged: `flowmesh store salvage {file} NEW` copies what is good")
    show(Text("\n".join(lines)), console())
    return 0 if found.is_sound and not found.quarantined else EXIT_FAILED


@store.command
def salvage(file: Path, target: Path, /) -> int:
    """Copy every row that is as it was written into a new store. The damaged file stays as it is.

    Args:
        file: the damaged store.
        target: the file to make.
    """
    try:
        found = salvage_file(file, target)
    except StoreError as error:
        return refuse(str(error))
    table = _table("table", "rows")
    for name, rows in found.saved.items():
        table.add_row(name, f"{rows:,}")
    show(table, console())
    for gap in found.gaps:
        complain(f"could not be read: {visible(gap)}")
    if found.quarantined:
        complain(f"in the new store's quarantine: {many(found.quarantined, 'damaged row')}")
    return EXIT_FAILED if found.gaps or found.quarantined else 0


def _table(first: str, second: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(first, overflow="fold")
    table.add_column(second, justify="right", no_wrap=True)
    return table


def _bytes(size: int) -> str:
    return f"{size:,} bytes" if size < 10_000 else f"{size / 1024:,.0f} KiB"
