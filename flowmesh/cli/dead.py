"""`flowmesh dead`: the dead letters in a store's file, while no process has it open."""

import pprint
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final

import msgspec
from cyclopts import App, Parameter
from rich.table import Table
from rich.text import Text

from flowmesh._runtime.stored_letters import DEAD_LETTERS, Letter, letters_in
from flowmesh._runtime.stored_letters import purge as purge_letters
from flowmesh._runtime.stored_letters import replay as replay_letters
from flowmesh.cli.numbers import many
from flowmesh.cli.output import EXIT_FAILED, complain, console, refuse, show, write
from flowmesh.cli.plain import visible, visible_lines
from flowmesh.errors import NotFound, StoreError
from flowmesh.message import Death, DeathReason
from flowmesh.stores import SQLiteStore
from flowmesh.stores.inspecting import rows_of

__all__ = ["dead"]

_EVERY: Final = 1 << 62
"""More than there can be."""

dead = App(
    name="dead",
    help="""Look at the dead letters in the file of a store, put them back, or forget them. No process may have it open.

    Exit codes: 0, 1 when a message was named that is no dead letter, or could not be put back, 2 when the file is in use, not
    there, or no store, or the command was typed wrongly.
    """,
    help_format="markdown",
)

Ids = Annotated[tuple[str, ...], Parameter(show_default=False)]
Flag = Annotated[bool, Parameter(negative="")]


@dead.command(name="list")
def list_letters(file: Path, /, *, mailbox: str | None = None, reason: DeathReason | None = None, limit: int = 100) -> int:
    """List dead letters, the oldest first: id, when, where and why it died, and its body's type.

    Args:
        file: the file of the store.
        mailbox: only those that died in the mailbox of this name.
        reason: only those that died for this reason.
        limit: at most so many.
    """
    try:
        letters = _read(file)
    except StoreError as error:
        return refuse(str(error))
    found = [letter for letter in letters if _is_of(letter, mailbox, reason)]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("id", "died", "reason"):
        table.add_column(column, no_wrap=True)
    for column in ("mailbox", "type", "detail"):
        table.add_column(column, overflow="fold")
    for letter in found[:limit]:
        death = letter.death
        first = [visible(letter.id), _time(death.time), death.reason]
        table.add_row(*map(Text, (*first, visible(death.mailbox), visible(letter.record.type), visible(death.detail))))
    if found:
        show(table, console())
    if len(found) > limit:
        complain(f"and {len(found) - limit:,} more: --limit says how many are listed")
    return 0


@dead.command(name="show")
def show_letter(file: Path, id: str, /) -> int:
    """Show one dead letter: its message, its history of deaths, the newest first, and its body.

    Args:
        file: the file of the store.
        id: which letter: the id of its message, as `flowmesh dead list` has it.
    """
    try:
        letters = [letter for letter in _read(file) if letter.id == id]
    except StoreError as error:
        return refuse(str(error))
    if not letters:
        return _missing([id])
    write("\n".join(_description(letter) for letter in letters))
    return 0


@dead.command(usage="Usage: flowmesh dead replay [OPTIONS] FILE [IDS...]")
def replay(
    file: Path,
    /,
    *ids: str,
    all: Flag = False,
    mailbox: str | None = None,
    reason: DeathReason | None = None,
) -> int:
    """Put dead letters back into the mailboxes they died in, with fresh attempts and their history.

    Args:
        file: the file of the store.
        ids: which letters: the ids of their messages, as `flowmesh dead list` has them; or --all.
        all: put back all letters, or all that --mailbox and --reason leave.
        mailbox: only those that died in the mailbox of this name.
        reason: only those that died for this reason.
    """

    def carry_out(store: SQLiteStore, is_meant: Callable[[Letter], bool]) -> bool:
        outcome = replay_letters(store, is_meant, wall=time.time())
        for letter in outcome.stayed:
            name = visible(letter.death.mailbox)
            complain(f"dead letter {visible(letter.id)} stays: the store has no mailbox {name!r}")
        write(f"{many(outcome.back, 'dead letter')} put back\n")
        return not outcome.stayed

    return _change(file, ids, is_all=all, mailbox=mailbox, reason=reason, carry_out=carry_out)


@dead.command(usage="Usage: flowmesh dead purge [OPTIONS] FILE [IDS...]")
def purge(
    file: Path,
    /,
    *ids: str,
    all: Flag = False,
    mailbox: str | None = None,
    reason: DeathReason | None = None,
) -> int:
    """Forget dead letters for good. Nothing is asked.

    Args:
        file: the file of the store.
        ids: which letters: the ids of their messages, as `flowmesh dead list` has them; or --all.
        all: forget all letters, or all that --mailbox and --reason leave.
        mailbox: only those that died in the mailbox of this name.
        reason: only those that died for this reason.
    """

    def carry_out(store: SQLiteStore, is_meant: Callable[[Letter], bool]) -> bool:
        write(f"{many(purge_letters(store, is_meant), 'dead letter')} forgotten\n")
        return True

    return _change(file, ids, is_all=all, mailbox=mailbox, reason=reason, carry_out=carry_out)


def _change(
    file: Path,
    ids: tuple[str, ...],
    *,
    is_all: bool,
    mailbox: str | None,
    reason: DeathReason | None,
    carry_out: Callable[[SQLiteStore, Callable[[Letter], bool]], bool],
) -> int:
    """Do something with the letters that are meant, and say which were not there."""
    if bool(ids) == is_all:
        return refuse("say which dead letters are meant: their ids, or --all")
    if not file.is_file():
        return refuse(f"store {file}: there is no such file")
    missing = dict.fromkeys(ids)

    def is_meant(letter: Letter) -> bool:
        if (ids and letter.id not in ids) or not _is_of(letter, mailbox, reason):
            return False
        missing.pop(letter.id, None)
        return True

    try:
        is_done = carry_out(SQLiteStore(file), is_meant)
    except StoreError as error:
        return refuse(str(error))
    return _missing(missing) if missing else 0 if is_done else EXIT_FAILED


def _read(file: Path) -> list[Letter]:
    try:
        return letters_in(rows_of(file, DEAD_LETTERS, limit=_EVERY))
    except NotFound:  # No letter has ever been there.
        return []


def _is_of(letter: Letter, mailbox: str | None, reason: DeathReason | None) -> bool:
    death = letter.death
    return (mailbox is None or death.mailbox == mailbox) and (reason is None or death.reason == reason)


def _missing(ids: "dict[str, None] | list[str]") -> int:
    for id in ids:
        complain(f"flowmesh: there is no such dead letter {visible(id)!r}: `flowmesh dead list` has those that there are")
    return EXIT_FAILED


def _description(letter: Letter) -> str:
    record, more = letter.record, letter.record.more
    assert more is not None
    facts: dict[str, object] = {
        "message": letter.id,
        "type": record.type,
        "exchange": record.exchange or '""',
        "key": record.key,
        "published": _time(record.timestamp),
        "priority": more.priority,
        "headers": more.headers,
        "correlation id": more.correlation_id,
        "reply to": more.reply_to,
        "cause": record.origin if isinstance(record.origin, str) else record.origin and f"{record.prefix}{record.origin}",
    }
    lines = [f"{name:16}{visible(str(fact))}" for name, fact in facts.items() if fact]
    for number, death in enumerate(more.deaths):
        lines.append(f"{'' if number else 'deaths':16}{visible(_history(death))}")
    try:
        body = pprint.pformat(letter.body, width=100, sort_dicts=False)
    except (msgspec.DecodeError, RecursionError) as error:
        body = f"{bytes(record.body)!r} ({error})"
    return "\n".join([*lines, "body", f"    {visible_lines(body)}", ""])


def _history(death: Death) -> str:
    times = "once" if death.count == 1 else f"{death.count} times, first"
    detail = f": {death.detail}" if death.detail else ""
    return f"{death.reason} in {death.mailbox!r}, {times} at {_time(death.time)}{detail}"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "seconds")
