"""Log lines on stderr: time, level, logger, text.  Coloured where stderr is a terminal, the same text without where not.

What is logged is foreign: it is never read as markup, its control characters are made visible, and its further lines are
indented, so that no message can pass for another line.
"""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final, Literal

from rich.console import Console
from rich.text import Text

from flowmesh.cli.plain import INDENT, error_text, visible, visible_lines

__all__ = ["Level", "logging_to"]

Level = Literal["debug", "info", "warning", "error", "critical"]

_STYLES: Final = {"DEBUG": "dim", "INFO": "green", "WARNING": "yellow", "ERROR": "bold red", "CRITICAL": "bold white on red"}


class LineHandler(logging.Handler):
    """Writes each record as a line of its own."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._form = logging.Formatter()

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record; one that cannot be formatted is reported as logging does."""
        try:
            time = self._form.formatTime(record, "%H:%M:%S")
            level, name, text = f"{record.levelname:<8}", visible(record.name), _text_of(record)
            if self._console.is_terminal:
                style = _STYLES.get(record.levelname, "")
                line = Text.assemble((time, "dim"), " ", (level, style), " ", (name, "dim"), "  ", text)
                self._console.print(line, soft_wrap=True)
            else:
                self._console.file.write(f"{time} {level} {name}  {text}\n")
                self._console.file.flush()
        except Exception:  # noqa: BLE001 - as logging.Handler asks of every handler
            self.handleError(record)


def _text_of(record: logging.LogRecord) -> str:
    text = visible_lines(record.getMessage())
    if record.exc_info and (error := record.exc_info[1]):
        text = f"{text}\n{INDENT}{visible_lines(error_text(error))}"
    if record.stack_info:
        text = f"{text}\n{INDENT}{visible_lines(record.stack_info)}"
    return text


@contextmanager
def logging_to(console: Console, level: Level) -> Generator[None]:
    """Write what is logged at this level or above to the console, until left."""
    root, handler = logging.getLogger(), LineHandler(console)
    before = root.level
    root.addHandler(handler)
    root.setLevel(level.upper())
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
