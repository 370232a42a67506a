"""What a ring of waits is called: `a -> b -> a (mailbox full)`, and the error of the call that would have closed it."""

from collections.abc import Sequence

from flowmesh._core.mailbox import Mailbox
from flowmesh._runtime.cell import Cell
from flowmesh._runtime.instance import Instance
from flowmesh._runtime.wait import Wait, Waiting, full
from flowmesh.errors import DeadlockError

__all__ = ["Node", "error_of", "names_in"]

Node = Wait | Waiting | Mailbox | Cell
_Step = tuple[str, str, Waiting | None]


def error_of(wait: Wait, ring: Sequence[Node]) -> DeadlockError:
    """Return the error of a wait that would close a ring, which begins with it."""
    steps = _steps(ring)
    names = tuple(name for name, _, _ in steps)
    shown = " -> ".join(f"{name}{reason}" for name, reason in _told_apart(steps))
    who = f"actor {wait.who.cell.name!r}"
    match wait.kind:
        case "answer":
            text = f"{who} would wait for itself ({shown}): tell instead of ask, or give one of them more slots (concurrency=)"
        case "room":
            text = (
                f"{who} would wait for itself ({shown}): send with ctx.tell or ctx.publish, which do not wait, or raise a "
                "mailbox's capacity"
            )
        case "stop":
            text = f"{who} would wait for itself to stop ({shown}): stop it from elsewhere"
    return DeadlockError(text, ring=names)


def names_in(ring: Sequence[Node]) -> list[str]:
    """Return the names of its actors, from the first to itself."""
    return [name for name, _, _ in _steps(ring)]


def _told_apart(steps: Sequence[_Step]) -> list[tuple[str, str]]:
    """Return the steps with the lanes of turns of one actor, where it has several in the ring."""
    turns: dict[str, set[Waiting]] = {}
    for name, _, who in steps:
        if who is not None:
            turns.setdefault(name, set()).add(who)
    return [(name, reason or ("" if who is None or len(turns[name]) == 1 else who.lane_note)) for name, reason, who in steps]


def _steps(ring: Sequence[Node]) -> list[_Step]:
    """Return the actors of a ring and what the one before waits for, from the first actor to itself, and whose turn it is."""
    last: Node = ring[0]
    first = last.who.cell if isinstance(last, Wait) else last
    assert isinstance(first, Cell | Instance)
    steps: list[_Step] = [(first.name, "", last.who if isinstance(last, Wait) else None)]
    closing = [first] if first is last else []
    for node in [*ring[1:], *closing]:
        match node:
            case Wait():
                last = node
            case Waiting():
                starts = node.worker is None and isinstance(last, Wait)
                steps.append((node.cell.name, " (starting)" if starts else _reason(last, node.cell.name), node))
            case Cell() if node.held_by or (not node.is_ready and node.keeper is None):
                steps.append((node.name, _reason(last, node.name) if node.is_ready else " (not started yet)", None))
                last = node
            case Mailbox() if isinstance(last, Cell):
                last = node
            case _:
                pass
    return steps


def _reason(last: Node, name: str) -> str:
    """Say what is waited for by the wait, or by the hold whose mailbox was passed last."""
    match last:
        case Wait():
            return last.note(name)
        case Mailbox():
            return full(last, name)
        case _:
            return ""
