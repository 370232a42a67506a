"""What a drain leaves behind, in numbers, the exit code that says it to the outside, and the way out when it does not end."""

import contextlib
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from msgspec import Struct

from flowmesh._core.mailbox import Mailbox
from flowmesh._runtime.blocking import Blocker
from flowmesh._runtime.cell import Cell
from flowmesh._runtime.ground import Ground
from flowmesh.message import Message

__all__ = ["EXIT_CLEAN", "EXIT_HANDED_BACK", "EXIT_HARD", "PATIENCE", "DrainReport", "HardExit", "deferred_in", "report_on"]

EXIT_CLEAN: Final = 0
EXIT_HANDED_BACK: Final = 75
"""EX_TEMPFAIL of sysexits.h: work was handed back, try again."""
EXIT_HARD: Final = 70
"""EX_SOFTWARE of sysexits.h: handlers did not end."""
PATIENCE: Final = 5.0
"""Seconds that cancelled handlers are given before they are named, and before `serve` exits hard."""
LAST_WORDS: Final = 1.0
"""Seconds that a hard exit waits for its own line in the log."""


class DrainReport(Struct, frozen=True):
    """What was left when a mesh stopped.

    `handed_back`: messages whose handler was cancelled, and which lie ready again; not asked ones: their askers were told.
    `unhandled`: ready copies that an actor would have handled, `unconsumed`: ready copies of mailboxes that nothing was fed
    from, both by mailbox. `in_hand`: deliveries that manual consumers have not settled. `deferred`: messages whose time had
    not come. `stored`: how many of all these, and of the dead letters, are in the store, for whoever comes next.
    `dead_letters` rest in `mesh.dead_letters`. `seconds`: how long the drain took. The numbers are those of
    `mesh.statistics()` at its end.
    """

    handed_back: int
    unhandled: Mapping[str, int]
    unconsumed: Mapping[str, int]
    in_hand: int
    deferred: int
    dead_letters: int
    seconds: float
    stored: int = 0

    @property
    def exit_code(self) -> int:
        """0, or 75 when work was handed back, left unhandled, or not settled by who had pulled it."""
        return EXIT_HANDED_BACK if self.handed_back or self.unhandled or self.in_hand else EXIT_CLEAN

    def __str__(self) -> str:
        left = [f"{count} ready in {name!r}" for name, count in {**self.unhandled, **self.unconsumed}.items()]
        if self.handed_back:
            left += [f"{self.handed_back} {'of them ' if left else ''}handed back by a cancelled handler"]
        left += [f"{self.in_hand} in the hands of consumers"] if self.in_hand else []
        left += [f"{self.deferred} deferred"] if self.deferred else []
        left += [f"{self.dead_letters} dead letter{'' if self.dead_letters == 1 else 's'}"] if self.dead_letters else []
        where = f"left, {self.stored} of it in the store" if self.stored else "left in memory"
        return f"drained in {self.seconds:.3g} s; " + (f"{where}: {', '.join(left)}" if left else "nothing is left")


def deferred_in(ground: Ground) -> int:
    """Return how many messages wait for their time."""
    return sum(1 for timer in ground.ledger.timers if isinstance(timer.action, Message))


def report_on(
    ground: Ground, consumers_of: Callable[[Mailbox], list[Cell]], *, handed_back: int, seconds: float
) -> DrainReport:
    """Count what is left, and log it: a warning if it is work that somebody expects to be done."""
    left = {box: box.ready for box in ground.router.mailboxes.values() if box.ready}
    report = DrainReport(
        handed_back=handed_back,
        unhandled={box.name: count for box, count in left.items() if consumers_of(box)},
        unconsumed={box.name: count for box, count in left.items() if not consumers_of(box)},
        in_hand=sum(box.leased for box in ground.router.mailboxes.values()),
        deferred=deferred_in(ground),
        dead_letters=ground.ledger.dead_letters.ready,
        seconds=seconds,
        stored=_stored(ground),
    )
    if report.exit_code or report.deferred:
        ground.log.warning("mesh %r %s", ground.name, report)
    else:
        ground.log.info("mesh %r %s", ground.name, report)
    return report


def _stored(ground: Ground) -> int:
    """Count what the next run finds in the store."""
    if ground.ledger.journal is None:
        return 0
    boxes = (*ground.router.mailboxes.values(), ground.ledger.dead_letters)
    return deferred_in(ground) + sum(box.ready + box.leased for box in boxes if box.shelf is not None)


class HardExit:
    """Ends the process when a drain does not end by itself, and names who keeps it from that.

    It uses threads and real time, since a handler may block the event loop; only `serve` has one. May be used from any thread.

    Args:
        name: of the mesh.
        log: where the last words go.
        running: names the handlers that run.
        find: tells what the application does in the loop's thread.
    """

    def __init__(
        self, name: str, log: logging.Logger, running: Callable[[], list[str]], find: Callable[[], Blocker | None]
    ) -> None:
        self._name = name
        self._log = log
        self._running = running
        self._find = find
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._due = math.inf

    def arm(self, seconds: float) -> None:
        """Exit hard that many seconds from now; of several limits the earliest stands, and infinity is none."""
        with self._lock:
            due = time.monotonic() + seconds
            if due >= self._due:
                return
            self._cancel()
            self._due = due
            self._timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), self._exit)
            self._timer.daemon = True
            self._timer.start()

    def disarm(self) -> None:
        """Do not exit."""
        with self._lock:
            self._cancel()

    def _cancel(self) -> None:
        self._due = math.inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _exit(self) -> None:
        # The log and the streams may be what the loop is blocked in: they get a while, the exit does not wait for them.
        last_words = threading.Thread(target=self._say_why, name="flowmesh last words", daemon=True)
        last_words.start()
        last_words.join(LAST_WORDS)
        os._exit(EXIT_HARD)

    def _say_why(self) -> None:
        running, blocker = self._running(), self._find()
        reasons = [f"{handler} still runs" for handler in running if blocker is None or handler != blocker.who]
        if blocker is not None:
            reasons.insert(0, f"{blocker.who or 'something of the application'} holds the event loop at {blocker.place}")
        self._log.critical(
            "mesh %r does not end: %s; leaving the process with exit code %d%s",
            self._name,
            ", ".join(reasons) or "something of the application still runs",
            EXIT_HARD,
            "" if blocker is None else f"\n{blocker.stack}",
        )
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # Whatever is wrong with it, the process ends.
                stream.flush()
