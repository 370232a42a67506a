"""Runs programs in processes that are killed, and keeps what they said: the truth about what they did."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

HERE = Path(__file__).parent
PATIENCE = 60.0
"""Real seconds after which a child that is not to be killed has failed."""


class Life(NamedTuple):
    """How long a process lives: killed after so many seconds (None: not at all), which count from when it says "running"."""

    turn: int
    seconds: float | None = None
    is_grown: bool = True
    """False: the seconds count from the fork, so that it is killed while it starts."""


class Stage:
    """A zygote (zygote.py) and its children, one at a time."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}  # These sources, whatever is installed.
        self._zygote = subprocess.Popen(
            [sys.executable, str(HERE / "zygote.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        assert self._zygote.stdin is not None
        assert self._zygote.stdout is not None
        self._wishes: IO[bytes] = self._zygote.stdin
        self._said: IO[bytes] = self._zygote.stdout
        self._rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._zygote.kill()
        self._wishes.close()
        self._said.close()
        self._zygote.wait()

    def run(self, program: str, life: Life, **wishes: Any) -> tuple[list[list[str]], int]:
        """Run a program, and kill it when its time is over.

        Returns:
            what it said, each line as words; and how it ended: its exit code, or the negative number of a signal.
        """
        self._wishes.write(json.dumps({"program": program, **wishes}).encode() + b"\n")
        self._wishes.flush()
        until = time.monotonic() + PATIENCE
        forked = self._next(until)
        assert forked is not None
        assert forked[0] == "forked"
        child, lines, left = int(forked[1]), list[list[str]](), life.seconds
        if left is not None and not life.is_grown:
            until = time.monotonic() + left
        try:
            while True:
                words = self._next(until)
                if words is None:
                    os.kill(child, signal.SIGKILL)
                    assert left is not None, f"the program has not ended within {PATIENCE} s; it said {lines[-5:]}"
                    until, left = time.monotonic() + PATIENCE, None
                elif words[0] == "running" and left is not None and life.is_grown:
                    until = time.monotonic() + left
                elif words[0] == "exit":
                    child = 0
                    return lines, os.waitstatus_to_exitcode(int(words[1]))
                else:
                    lines.append(words)
        finally:
            if child:
                os.kill(child, signal.SIGKILL)

    def _next(self, until: float) -> list[str] | None:
        """Return the next line; None if none comes in time."""
        while b"\n" not in self._rest:
            left = until - time.monotonic()
            if left <= 0 or not select.select([self._said], [], [], left)[0]:
                return None
            found = os.read(self._said.fileno(), 1 << 16)
            assert found, "the zygote has ended"
            self._rest += found
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode().split(" ", 3)
