"""Observing: what a commit changed, told to the observers as points of messages' lives.

The ledger hands over each commit that it has applied; the hand-outs, which are no commits, are told where they happen.
This is the one place that translates changes into points (see `ports.Observer` for what is promised).

A mesh without observers has no Observing: the ledger tells nobody, publishers append and workers count as fast as they can.
With one, mailboxes take nothing past the ledger (`Mailbox.is_open`) and no handler is plain (`Cell.observed`), so that
every copy enters and ends through a commit.

What an observer does while it is told may commit again.  Points are told from a queue, so that they keep their order, and no
observer is called inside another one.
"""

import inspect
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, assert_never

from msgspec import Struct

from flowmesh._core.commits import (
    Commit,
    Delay,
    End,
    EndPlain,
    Enter,
    Forget,
    Keep,
    LeaveOut,
    Return,
    Save,
    SetTimer,
    Sweep,
)
from flowmesh._core.entry import Entry, State
from flowmesh.errors import InvalidHandler
from flowmesh.message import Message
from flowmesh.ports import CommitSummary, Observer

__all__ = ["MAX_ROUNDS", "POINTS", "Observing", "checked_observers"]

POINTS: Final = ("entered", "handed_out", "settled", "dead", "retried", "postponed", "resumed", "committed")
MAX_ROUNDS: Final = 8
"""How long a chain of sends may be in which each is an observer's answer to the one before."""


class Point(Struct, frozen=True):
    """One call to make of every observer that wants it."""

    name: str
    positional: tuple[Any, ...]
    named: Mapping[str, Any] = {}


class Observing:
    """The observers of one run of a mesh. `failed`: how many are asked no more.

    `fault` is told what stops the mesh: an observer's SystemExit, for one.
    """

    def __init__(self, observers: Sequence[Observer], log: logging.Logger, fault: Callable[[BaseException], None]) -> None:
        self._log = log
        self._fault = fault
        self._asked: dict[str, list[tuple[Observer, Callable[..., object]]]] = {
            name: [(observer, method) for observer in observers if (method := _method(observer, name)) is not None]
            for name in POINTS
        }
        self._pending: deque[tuple[int, Point]] = deque()
        self._is_telling = False
        self._round = 0  # of the point that is being told: 0 unless a send of an observer led to it
        self.failed = 0

    def applied(self, commit: Commit) -> None:
        """Tell what a commit has changed."""
        if commit.changes:
            self._tell(points_of(commit))

    def handed_out(self, message: Message, mailbox: str, *, actor: str | None, attempt: int) -> None:
        """Tell that a copy is handed to an actor's handler, or to a manual consumer (`actor` is None)."""
        self._tell([Point("handed_out", (message, mailbox), {"actor": actor, "attempt": attempt})])

    def postponed(self, message: Message, mailbox: str, *, actor: str, state: str) -> None:
        """Tell that a state machine wants a copy later."""
        self._tell([Point("postponed", (message, mailbox), {"actor": actor, "state": state})])

    def _tell(self, points: Iterable[Point]) -> None:
        number = self._round + 1 if self._is_telling else 0
        self._pending.extend((number, point) for point in points)
        if self._is_telling:
            return
        self._is_telling = True
        try:
            while self._pending:
                self._round, point = self._pending.popleft()
                for observer, method in tuple(self._asked[point.name]):
                    self._ask(observer, method, point)
        finally:
            self._is_telling = False
            self._round = 0

    def _ask(self, observer: Observer, method: Callable[..., object], point: Point) -> None:
        pending = len(self._pending)
        try:
            method(*point.positional, **point.named)
        except BaseException as error:  # noqa: BLE001 - a message must not be disturbed by who listens
            self._leave_out(observer)
            self._log.error("observer %r raised when it was told %s: it is asked no more", observer, point.name, exc_info=error)
            if not isinstance(error, Exception):
                self._fault(error)
        else:
            if self._round >= MAX_ROUNDS and len(self._pending) > pending:
                self._leave_out(observer)
                self._log.error(
                    "observer %r answers what comes of its own sends with further sends: it is asked no more "
                    "(look at message.key before sending)",
                    observer,
                )

    def _leave_out(self, observer: Observer) -> None:
        self.failed += 1
        for asked in self._asked.values():
            asked[:] = [item for item in asked if item[0] is not observer]


def points_of(commit: Commit) -> Iterator[Point]:
    """Give the points that an applied commit stands for, and its summary last."""
    entered = settled = returned = deferred = 0
    for change in commit.changes:
        match change:
            case Enter(mailbox, item):
                entered += 1
                yield Point("entered", (_message(item), mailbox.name))
                if mailbox.deleted:
                    settled += 1
                    yield _settled(item, mailbox.name, "purged")
            case LeaveOut(mailbox, item, outcome, reason):
                entered += 1
                settled += 1
                yield Point("entered", (_message(item), mailbox.name))
                yield _settled(item, mailbox.name, outcome)
                if reason is not None:
                    yield Point("dead", (_message(item), mailbox.name), {"reason": reason, "detail": ""})
            case End(mailbox, entry, outcome, _, reason, detail):
                settled += 1
                yield _settled(entry, mailbox.name, outcome)
                if reason is not None:
                    yield Point("dead", (entry.message, mailbox.name), {"reason": reason, "detail": detail})
            case EndPlain(mailbox, message):
                settled += 1
                yield _settled(message, mailbox.name, "acked")
            case Return(mailbox, entry, was, failures):
                if mailbox.deleted:
                    settled += 1
                    yield _settled(entry, mailbox.name, "purged")
                elif was is State.POSTPONED:
                    returned += 1
                    yield Point("resumed", (entry.message, mailbox.name))
                elif was is State.LEASED:  # One that was delayed has been told when its delay began.
                    returned += 1
                    yield _retried(entry, mailbox.name, failures, 0.0)
            case Delay(mailbox, entry, _, failures, _, delay):
                returned += 1
                yield _retried(entry, mailbox.name, failures, delay)
            case SetTimer():
                deferred += 1
            case Sweep(_, _, _, copies):
                settled += copies  # What they were is known to the store alone.
            case Save() | Keep() | Forget():
                pass
            case _:
                assert_never(change)
    yield Point("committed", (CommitSummary(entered=entered, settled=settled, returned=returned, deferred=deferred),))


def _message(item: Entry | Message) -> Message:
    return item.message if isinstance(item, Entry) else item


def _settled(item: Entry | Message, mailbox: str, outcome: str) -> Point:
    return Point("settled", (_message(item), mailbox), {"outcome": outcome})


def _retried(entry: Entry, mailbox: str, failures: int, delay: float) -> Point:
    return Point("retried", (entry.message, mailbox), {"attempt": failures + 1, "delay": delay})


def checked_observers(observers: object) -> tuple[Observer, ...]:
    """Return the observers, once it is certain that each can be asked.

    Raises:
        TypeError: it is no sequence of observers.
        InvalidHandler: one is a class, has no point, or has one that cannot be called as `Observer` says; names it.
    """
    if not isinstance(observers, Sequence) or isinstance(observers, str | bytes):
        raise TypeError(f"observers must be a sequence of observers, not {observers!r}: write observers=(one,)")
    found: tuple[Any, ...] = tuple(observers)  # pyright: ignore[reportUnknownArgumentType,reportUnknownVariableType] - checked here
    for observer in found:
        _check(observer)
    return found


def _check(observer: Any) -> None:
    if inspect.isclass(observer):
        raise InvalidHandler(f"observer {observer.__qualname__} is a class: give an instance, {observer.__qualname__}()")
    methods = {name: method for name in POINTS if (method := _method(observer, name)) is not None}
    if not methods:
        raise InvalidHandler(f"observer {observer!r} would never be asked: write at least one of {', '.join(POINTS)}")
    for name, method in methods.items():
        parameters = list(inspect.signature(getattr(Observer, name)).parameters.values())[1:]
        named = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
        positional = [parameter.name for parameter in parameters if parameter.name not in named]
        called = f"{name}({', '.join(['self', *positional, *(['*', *named] if named else [])])}) -> None"
        if not callable(method) or inspect.iscoroutinefunction(method):
            raise InvalidHandler(f"observer {observer!r} must have a plain method: def {called}")
        try:
            inspect.signature(method).bind(*positional, **dict.fromkeys(named))
        except TypeError as error:
            raise InvalidHandler(f"observer {observer!r} must be written as: def {called} ({error})") from error


def _method(observer: object, name: str) -> Any:
    """Return what to call for a point, or None if the observer does not want it."""
    if getattr(type(observer), name, None) is getattr(Observer, name):
        return None
    return getattr(observer, name, None)
