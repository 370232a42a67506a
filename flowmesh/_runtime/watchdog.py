"""Watchdogs ask event loops, again and again, whether they still go on, and name who keeps one from answering.

Each running mesh has a watchdog on its loop, and one thread, the watch, lets all those of the process look, every INTERVAL
seconds.  A look at a loop that has answered asks anew; LOOKS looks in a row without an answer are a blocked loop.  Looks are
counted and no clock is read, so a process that was suspended accuses nobody.  Whoever blocks is named once, and again when the
loop has answered in between; and only if two looks have seen the same call, so that many short handlers in a row are not
mistaken for a long one.
"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Final

from flowmesh._runtime.blocking import Blocker, find_blocker

__all__ = ["INTERVAL", "LOOKS", "WATCH", "Watch", "Watchdog"]

INTERVAL: Final = 0.25
"""Real seconds between two looks. A loop is named as blocked at most (LOOKS + 1) * INTERVAL seconds after it stopped."""
LOOKS: Final = 4
"""Looks without an answer after which a loop is blocked."""


class Watchdog:
    """Watches one event loop on behalf of one mesh: whoever blocks the loop as a part of another mesh is that mesh's to name.

    Args:
        mesh: the name of the mesh.
        log: where whoever blocks the loop is named, as an error.
        thread: the loop's thread.
        is_running: tells whether the loop runs; one that was left before its mesh was stopped answers nobody.
        call_soon: lets the loop call something soon. Both are used from the thread of the watch.
        find: tells what the application does in a thread.
    """

    def __init__(
        self,
        mesh: str,
        log: logging.Logger,
        thread: int,
        *,
        is_running: Callable[[], bool],
        call_soon: Callable[[Callable[[], None]], None],
        find: Callable[[int], Blocker | None] = find_blocker,
    ) -> None:
        self._mesh = mesh
        self._log = log
        self._thread = thread
        self._is_running = is_running
        self._call_soon = call_soon
        self._find = find
        self._answered = True
        self._missed = 0
        self._suspect: Blocker | None = None
        self._is_named = False

    def look(self) -> None:
        """Ask the loop, or count that it has not answered; name who keeps it from that."""
        if self._answered:
            self._answered, self._missed, self._suspect, self._is_named = False, 0, None, False
            self._call_soon(self._answer)
            return
        if not self._is_running():
            self._missed, self._suspect = 0, None  # What it was asked it answers when it runs on.
            return
        self._missed += 1
        before, self._suspect = self._suspect, self._find(self._thread)
        if self._missed >= LOOKS and not self._is_named and self._suspect is not None and self._suspect.is_same(before):
            self._is_named = True
            if self._suspect.mesh in (None, self._mesh):
                self._log.error(
                    "%s blocks the event loop: for %g s it has been at %s, and nothing else could run; let it await, "
                    "or declare a handler with a plain def, which runs in a thread\n%s",
                    self._suspect.who or "something of the application",
                    self._missed * INTERVAL,
                    self._suspect.place,
                    self._suspect.stack,
                )

    def _answer(self) -> None:
        self._answered = True


class Watch:
    """The thread in which watchdogs look. It begins with the first one, and ends at the first look for which there is none.

    So a mesh that starts soon after another has ended finds it there, and nobody waits for its end. A log that is not taken
    keeps it from looking on. May be used from any thread.

    Args:
        wait: waits so many real seconds. Tests give one that does not wait.
    """

    def __init__(self, *, wait: Callable[[float], object] = time.sleep) -> None:
        self._wait = wait
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget all: this process is a fork, which has neither the thread nor the loops."""
        self._lock = threading.Lock()
        self._watchdogs: dict[Watchdog, None] = {}
        self._thread: threading.Thread | None = None

    def add(self, watchdog: Watchdog) -> None:
        """Let a watchdog look from now on.

        Raises:
            RuntimeError: there is no thread, and none can be started: the interpreter ends, or the system allows no more.
        """
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="flowmesh watchdog", daemon=True)
                thread.start()
                self._thread = thread
            self._watchdogs[watchdog] = None

    def remove(self, watchdog: Watchdog) -> None:
        """Let it look no more, but for a look that has begun; nothing if it does not."""
        with self._lock:
            self._watchdogs.pop(watchdog, None)

    def _run(self) -> None:
        while True:
            self._wait(INTERVAL)
            with self._lock:
                if not self._watchdogs:
                    self._thread = None
                    return
                watchdogs = list(self._watchdogs)
            for watchdog in watchdogs:
                with contextlib.suppress(Exception):  # A log that fails is its owner's affair: the others are watched on.
                    watchdog.look()


# Of the process and not of a mesh: a thread for each would cost as much as the rest of the start of a small mesh.
WATCH: Final = Watch()
os.register_at_fork(after_in_child=WATCH.begin_anew)
