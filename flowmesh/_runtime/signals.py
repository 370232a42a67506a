"""SIGINT and SIGTERM, heard whether the event loop sleeps, works or is blocked.

The interpreter calls a signal's handler between two bytecodes of the main thread, so also while a handler of the mesh waits
in `time.sleep` or for a lock; not before a call into C that never looks up returns.  There the signal is counted, and nothing
else: any lock may be held at that moment.  The rest is done twice: by a thread at once, which may not touch the loop's state,
and by the loop as soon as it can.

A signal does not always interrupt what the main thread waits for: it may come right before the wait begins, and the system may
hand it to another thread.  But the interpreter, from within, writes a byte for it at once; so the byte's reader lets the loop
wake up, and interrupts the main thread now and then, by a signal that means nothing, until the loop has answered.
"""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, Self

__all__ = ["SIGNALS", "Signals"]

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_NUDGE: Final = signal.SIGURG
"""Ignored unless somebody asks for it, so nobody minds one too many."""
_NUDGE_EVERY: Final = 0.25
_LOOK: Final = b"\0"
"""What the handler sends: no signal has this number."""
_CHUNK: Final = 4096


class Signals:
    """Hears SIGINT and SIGTERM while it is entered, and puts back who heard them before.

    In any other thread than the main one it hears nothing: Python allows it only there. In a forked child, which inherits the
    handlers, a signal does what it did before.

    Args:
        count: called in the signal handler; must take no lock.
        at_once: called in a thread of its own soon after, even if the loop is blocked.
        in_loop: called by the loop when it can.
        call_soon: lets the loop call something soon, from any thread.
    """

    def __init__(
        self,
        *,
        count: Callable[[signal.Signals], None],
        at_once: Callable[[], None],
        in_loop: Callable[[], None],
        call_soon: Callable[[Callable[[], None]], None],
    ) -> None:
        self._count = count
        self._at_once = at_once
        self._in_loop = in_loop
        self._call_soon = call_soon
        self._before: dict[signal.Signals, Any] = {}
        self._is_asked = False
        self._main = self._process = 0
        self._other = -1

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        self._main = threading.get_ident()
        self._process = os.getpid()
        self._is_asked = False
        self._ear, self._mouth = socket.socketpair()
        self._mouth.setblocking(False)
        self._thread = threading.Thread(target=self._listen, name="flowmesh signals", daemon=True)
        self._thread.start()
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._handle)
        if signal.getsignal(_NUDGE) in (signal.SIG_DFL, signal.SIG_IGN):
            self._before[_NUDGE] = signal.signal(_NUDGE, _nothing)
        self._other = signal.set_wakeup_fd(self._mouth.fileno(), warn_on_full_buffer=False)
        return self

    def __exit__(self, *exc: object) -> None:
        if not self._before:
            return
        for number, handler in self._before.items():
            # None: it was set by something else than Python, and cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before.clear()
        current = signal.set_wakeup_fd(-1)
        # Somebody who has taken the bytes meanwhile keeps them.
        signal.set_wakeup_fd(self._other if current == self._mouth.fileno() else current, warn_on_full_buffer=False)
        self._mouth.close()
        self._thread.join()
        self._ear.close()

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            signal.signal(number, self._before[signal.Signals(number)] or signal.SIG_DFL)
            signal.raise_signal(number)
            return
        self._count(signal.Signals(number))
        self._call_soon(self._answer)
        with contextlib.suppress(BlockingIOError):  # Full: the thread has yet to read, and looks then.
            self._mouth.send(_LOOK)

    def _listen(self) -> None:
        while True:
            self._ear.settimeout(_NUDGE_EVERY if self._is_asked else None)
            try:
                heard = self._ear.recv(_CHUNK)
            except TimeoutError:
                if self._is_asked:
                    signal.pthread_kill(self._main, _NUDGE)
                continue
            if not heard:
                return
            self._pass_on(heard.replace(_LOOK, b""))
            if not self._is_asked:
                self._is_asked = True
                self._call_soon(self._answer)
            self._at_once()

    def _pass_on(self, heard: bytes) -> None:
        """Let whoever had the bytes before have them, such as trio, which wakes up by them."""
        if heard and self._other != -1:
            with contextlib.suppress(OSError):  # Full, so it wakes up anyway; or closed.
                os.write(self._other, heard)

    def _answer(self) -> None:
        self._is_asked = False
        self._in_loop()


def _nothing(_number: int, _frame: FrameType | None) -> None:
    """Take a signal that means nothing: only a handler lets it interrupt."""
