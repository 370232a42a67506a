"""A terminal with a region at its bottom: lines that are redrawn in place, while whatever else is written scrolls above.

* Each change is one write that ends below the region, and the cursor is never hidden: however the process ends, by a signal
  or `os._exit` too, the terminal can be used.
* Only lines that have changed are written again, and none is erased before it is written: nothing flickers.
* While a region is shown, what is written to `sys.stdout` and `sys.stderr` goes above it, in whole lines and otherwise as it
  is; before and after, it goes straight through. Who keeps one of the two (a logging handler does) may go on using it.
* Nothing is drawn while another program has the terminal (`flowmesh run app.py &`).

Its methods can be called from any thread.
"""

import os
import re
import sys
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from threading import RLock
from typing import Any, Final, TextIO, cast

from rich.cells import cell_len

__all__ = ["Screen", "screen_of_process"]

LONGEST_LINE: Final = 8192
"""Characters of a line without an end after which it is written all the same."""
USUAL_SIZE: Final = os.terminal_size((80, 24))
"""What is assumed of a terminal that does not say its size."""

_STYLES: Final = re.compile(r"\x1b\[[\d;]*m")
_ERASE_BELOW: Final = "\x1b[J"
_ERASE_RIGHT: Final = "\x1b[K"


class Screen:
    """The terminal and its region, which is empty at first."""

    def __init__(self, terminal: TextIO) -> None:
        self.terminal: Final = terminal
        self.lock: Final = RLock()
        self._lines: list[str] = []
        self._columns = 0
        self._streams: list[_Above] = []

    def stand_before(self, stream: TextIO) -> TextIO:
        """Return what to write to instead of this stream, so that it goes above the region."""
        above = _Above(self, stream)
        self._streams.append(above)
        return cast(TextIO, above)

    def size(self) -> os.terminal_size:
        """Return how many columns and lines there are at this moment."""
        try:
            size = os.get_terminal_size(self.terminal.fileno())
        except OSError:
            return USUAL_SIZE
        return size if size.columns and size.lines else USUAL_SIZE

    def show(self, lines: Sequence[str]) -> None:
        """Make these lines the region.

        Args:
            lines: styled or not, each narrower than the terminal; none ends the region, without a trace.
        """
        with self.lock:
            if not _has_terminal(self.terminal.fileno()):
                self._lines = []
                return
            columns, old = self.size().columns, self._lines
            if list(lines) == old and columns == self._columns:
                return
            parts = [self._to_top(columns)]
            if columns != self._columns or self._rows(columns) > len(old):  # The terminal has broken lines.
                parts.append(_ERASE_BELOW)
                old = []
            for position, line in enumerate(lines):
                if position >= len(old) or line != old[position]:
                    parts += [line, _ERASE_RIGHT]
                parts.append("\r\n")
            self._lines, self._columns = list(lines), columns
            self._write("".join([*parts, _ERASE_BELOW]))

    def write_above(self, text: str) -> None:
        """Write text that ends with a line's end above the region."""
        with self.lock:
            if not self._lines:
                self._write(text)
                return
            columns = self.size().columns
            top, self._columns = self._to_top(columns), columns
            self._write("".join([top, _ERASE_BELOW, text, *(f"{line}\r\n" for line in self._lines)]))

    def leave(self) -> None:
        """Let the region stand where it is, as text like any other; the next one begins below."""
        with self.lock:
            for stream in self._streams:
                with suppress(OSError):  # The terminal may have gone away.
                    stream.finish()
            self._lines = []

    @property
    def has_region(self) -> bool:
        """Something is shown."""
        return bool(self._lines)

    def _to_top(self, columns: int) -> str:
        """Return what moves the cursor to where the region begins."""
        rows = self._rows(columns)
        return f"\r\x1b[{rows}A" if rows else "\r"

    def _rows(self, columns: int) -> int:
        """Return how many rows the region takes: a terminal that has become narrower breaks its lines."""
        return sum(max(1, -(-cell_len(_STYLES.sub("", line)) // columns)) for line in self._lines)

    def _write(self, text: str) -> None:
        self.terminal.write(text)
        self.terminal.flush()


class _Above:
    """A standard stream whose text goes above the region while there is one. Everything else is the stream's own."""

    def __init__(self, screen: Screen, stream: TextIO) -> None:
        self._screen = screen
        self._stream = stream
        self._begun = ""

    def write(self, text: str) -> int:
        """Write the lines that end in the text, and keep the rest until its line ends."""
        with self._screen.lock:
            if not self._screen.has_region:
                self.finish()
                return self._stream.write(text)
            lines, end, self._begun = (self._begun + text).rpartition("\n")
            if len(self._begun) > LONGEST_LINE:
                lines, end, self._begun = f"{lines}{end}{self._begun}", "\n", ""
            if end:
                self._screen.write_above(lines + end)
            return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write them all."""
        self.write("".join(lines))

    def finish(self) -> None:
        """Write the line that has been begun; above a region it ends there."""
        begun, self._begun = self._begun, ""
        if begun and self._screen.has_region:
            self._screen.write_above(f"{begun}\n")
        elif begun:
            self._stream.write(begun)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def screen_of_process() -> Generator[Screen | None]:
    """Put a Screen before the two standard streams, until left; None if they are no terminal that can be drawn on."""
    stdout, stderr = sys.stdout, sys.stderr
    if not _can_be_drawn_on(stdout, stderr):
        yield None
        return
    stdout.flush()
    screen = Screen(stderr)
    sys.stdout, sys.stderr = screen.stand_before(stdout), screen.stand_before(stderr)
    try:
        yield screen
    finally:
        screen.leave()
        sys.stdout, sys.stderr = stdout, stderr


def _can_be_drawn_on(stdout: TextIO, stderr: TextIO) -> bool:
    """Whether both are one terminal, which this process has to itself and which understands more than lines."""
    if os.environ.get("TERM", "dumb").lower() in ("", "dumb", "unknown"):
        return False
    try:
        numbers = (stdout.fileno(), stderr.fileno())
        if not all(map(os.isatty, numbers)) or len({os.fstat(number).st_rdev for number in numbers}) > 1:
            return False
        return _has_terminal(numbers[0])
    except (OSError, ValueError, AttributeError):
        return False


def _has_terminal(number: int) -> bool:
    """Whether this process may write to the terminal behind the file number: it is not in its background."""
    try:
        return os.tcgetpgrp(number) == os.getpgrp()
    except OSError:
        return True  # A terminal that no shell shares out.
