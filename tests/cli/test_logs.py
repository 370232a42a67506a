"""Log lines on stderr."""

import io
import logging
import re

import pytest
from rich.console import Console

from flowmesh.cli.logs import Level, logging_to


def lines_of(console_is_terminal: bool, level: Level = "info") -> list[str]:
    """Log a few things and return what was written."""
    file = io.StringIO()
    log = logging.getLogger("shop.[till]\x1b")
    with logging_to(Console(file=file, force_terminal=console_is_terminal, color_system=None, width=20), level):
        log.debug("hidden unless asked for")
        log.info("sold %s", "[bold]tea[/bold]\nfor \x1b[31m5")
        try:
            raise ValueError("[red]broken[/red]")
        except ValueError:
            log.exception("not sold")
        log.info("looked at", stack_info=True)
    log.warning("not ours any more")
    return file.getvalue().splitlines()


@pytest.mark.parametrize("terminal", [False, True])
def test_line_is_time_level_logger_text(terminal: bool) -> None:
    """The same words in a terminal and elsewhere; markup is only text, controls are visible, nothing is wrapped or cut."""
    first, second, *rest = lines_of(terminal)
    assert re.fullmatch(r"\d\d:\d\d:\d\d INFO     shop\.\[till\]\\x1b  sold \[bold\]tea\[/bold\]", first)
    assert second == r"    for \x1b[31m5"
    assert re.fullmatch(r"\d\d:\d\d:\d\d ERROR    shop\.\[till\]\\x1b  not sold", rest[0])
    assert rest[1] == "    Traceback (most recent call last):"
    assert "    ValueError: [red]broken[/red]" in rest
    assert any(line.startswith("    Stack (most recent call last):") for line in rest)
    assert all(line.startswith("    ") or re.match(r"\d\d:\d\d:\d\d [A-Z]+ ", line) for line in rest)


def test_level_hides_what_is_below() -> None:
    """Only the level that was asked for and above is written, and nothing once the block is left."""
    text = "\n".join(lines_of(False))
    assert "hidden" not in text
    assert "not ours" not in text
    assert "hidden unless asked for" in "\n".join(lines_of(False, "debug"))
    assert lines_of(False, "critical") == []


def test_colour_only_in_a_terminal() -> None:
    """A terminal gets colours; a file gets none."""

    def written(terminal: bool) -> str:
        file = io.StringIO()
        with logging_to(Console(file=file, force_terminal=terminal, color_system="standard"), "info"):
            logging.getLogger("shop").warning("careful")
        return file.getvalue()

    assert "\x1b[" in written(True)
    assert "\x1b[" not in written(False)


def test_record_that_cannot_be_formatted_breaks_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log call with wrong arguments is reported as logging does, and the caller goes on."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's own would raise
    file = io.StringIO()
    with logging_to(Console(file=file), "info"):
        logging.getLogger("shop").info("%d things", "many")
        logging.getLogger("shop").info("after")
    assert "Logging error" in capsys.readouterr().err
    assert file.getvalue().count("\n") == 1
