"""A thread that asks an event loop, again and again, whether it still goes on, and names who keeps it from answering.

It looks every INTERVAL seconds.  A look at a loop that has answered asks anew; LOOKS looks in a row without an answer are a
blocked loop.  Looks are counted and no clock is read, so a process that was suspended accuses nobody.  Whoever blocks is
named once, and again when the loop has answered in between; and only if two looks have seen the same call, so that many short
handlers in a row are not mistaken for a long one.
"""

import logging
import threading
from collections.abc import Callable
from typing import Final

from flowmesh._runtime.blocking import Blocker, find_blocker

__all__ = ["INTERVAL", "LOOKS", "Watchdog"]

INTERVAL: Final = 0.25
"""Real seconds between two looks. A loop is named as blocked at most (LOOKS + 1) * INTERVAL seconds after it stopped."""
LOOKS: Final = 4
"""Looks without an answer after which a loop is blocked."""


class Watchdog:
    """Watches one event loop between `start` and `stop`.

    Args:
        log: where whoever blocks the loop is named, as an error.
        thread: the loop's thread.
        call_soon: lets the loop call something soon; it is used from the watchdog's thread.
        wait: waits so many real seconds, or until `stop`; True when it is over. Tests give one that does not wait.
        find: tells what the application does in a thread.
    """

    def __init__(
        self,
        log: logging.Logger,
        thread: int,
        call_soon: Callable[[Callable[[], None]], None],
        *,
        wait: Callable[[float], bool] | None = None,
        find: Callable[[int], Blocker | None] = find_blocker,
    ) -> None:
        self._log = log
        self._loop_thread = thread
        self._call_soon = call_soon
        self._ended = threading.Event()
        self._wait = self._ended.wait if wait is None else wait
        self._find = find
        self._thread: threading.Thread | None = None
        self._answered = True
        self._missed = 0
        self._suspect: Blocker | None = None
        self._is_named = False

    def start(self) -> None:
        """Begin to watch; nothing if it watches already."""
        if self._thread is None:
            self._ended.clear()
            self._answered, self._missed = True, 0
            self._thread = threading.Thread(target=self._run, name="flowmesh watchdog", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Watch no more. Waits for the thread, but not for a log that somebody keeps from being written."""
        if self._thread is not None:
            self._ended.set()
            self._thread.join(INTERVAL)
            self._thread = None

    def find(self) -> Blocker | None:
        """Return what the application does in the loop's thread at this moment, if it does anything."""
        return self._find(self._loop_thread)

    def _run(self) -> None:
        while not self._wait(INTERVAL):
            self._look()

    def _look(self) -> None:
        if self._answered:
            self._answered, self._missed, self._suspect, self._is_named = False, 0, None, False
            self._call_soon(self._answer)
            return
        self._missed += 1
        before, self._suspect = self._suspect, self.find()
        if self._missed >= LOOKS and not self._is_named and self._suspect is not None and self._suspect.is_same(before):
            self._is_named = True
            self._log.error(
                "%s blocks the event loop: for %g s it has been at %s, and nothing else could run; let it await, or declare a "
                "handler with a plain def, which runs in a thread\n%s",
                self._suspect.who or "something of the application",
                self._missed * INTERVAL,
                self._suspect.place,
                self._suspect.stack,
            )

    def _answer(self) -> None:
        self._answered = True
