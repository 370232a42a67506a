"""The terminal with a region at its bottom."""

import io
import os
import sys
import termios
from collections.abc import Generator
from contextlib import contextmanager
from typing import TextIO, cast

import pytest

from flowmesh.cli.screen import LONGEST_LINE, USUAL_SIZE, Screen, screen_of_process
from tests.cli.terminal import Terminal


class Tty(io.StringIO):
    """A stream to a terminal whose size tests set; it has a file number only if it is given one."""

    def __init__(self, terminal: Terminal) -> None:
        super().__init__()
        self.terminal = terminal
        self.writes: list[str] = []

    def write(self, text: str, /) -> int:
        self.writes.append(text)
        self.terminal.feed(text.replace("\r\n", "\n").replace("\n", "\r\n"))
        return len(text)

    def fileno(self) -> int:
        return -1


@pytest.fixture
def tty(monkeypatch: pytest.MonkeyPatch) -> Tty:
    """A stream to a terminal of 20 columns and 8 lines, to begin with."""
    stream = Tty(Terminal(20, 8))

    def size(_number: int) -> os.terminal_size:
        return os.terminal_size((stream.terminal.columns, stream.terminal.height))

    monkeypatch.setattr(os, "get_terminal_size", size)
    return stream


def test_region_is_redrawn_in_place(tty: Tty) -> None:
    """The region's lines replace those of before, the cursor rests below, and each change is one write."""
    screen = Screen(tty)
    tty.terminal.feed("$ run\r\n")
    screen.show(["one", "two"])
    screen.show(["one", "\x1b[1mthree\x1b[0m", "four"])
    assert tty.terminal.text == "$ run\none\nthree\nfour\n"
    screen.show(["five"])
    assert tty.terminal.text == "$ run\nfive\n"
    assert (tty.terminal.row, tty.terminal.column) == (2, 0)
    assert len(tty.writes) == 3
    screen.show([])
    assert tty.terminal.text == "$ run\n"


def test_nothing_is_written_when_nothing_changes(tty: Tty) -> None:
    """An equal region costs no byte, and of one that changes only the lines that differ are written."""
    screen = Screen(tty)
    screen.show(["name", "10"])
    screen.show(["name", "10"])
    assert len(tty.writes) == 1
    screen.show(["name", "11"])
    assert "name" not in tty.writes[1]


def test_nothing_is_erased_before_it_is_written(tty: Tty) -> None:
    """A redrawn line is never blank in between, so it cannot flicker; only what is left of a longer one is erased."""
    screen = Screen(tty)
    screen.show(["12345", "12345"])
    screen.show(["1234", "54321"])
    assert tty.terminal.erased == 1


def test_text_goes_above(tty: Tty) -> None:
    """What is written while there is a region scrolls above it, long lines too, and beyond the top of the terminal."""
    screen = Screen(tty)
    stream = screen.stand_before(tty)
    stream.write("before\n")
    screen.show(["", "region"])
    for number in range(10):
        stream.write(f"line {number}\n")
    stream.write("x" * 30 + "\nend\n")
    assert tty.terminal.text.splitlines() == [
        "before",
        *(f"line {n}" for n in range(10)),
        "x" * 20,
        "x" * 10,
        "end",
        "",
        "region",
    ]
    assert tty.terminal.gone[0] == "before"


def test_lines_are_whole(tty: Tty) -> None:
    """A line that is written in pieces appears when it ends; what has no end appears when the region is left."""
    screen = Screen(tty)
    out, err = screen.stand_before(tty), screen.stand_before(tty)
    screen.show(["region"])
    out.write("half ")
    err.writelines(["other\n", "begun"])
    assert tty.terminal.text == "other\nregion\n"
    out.write("whole\nrest")
    assert tty.terminal.text == "other\nhalf whole\nregion\n"
    screen.leave()
    assert tty.terminal.text == "other\nhalf whole\nrest\nbegun\nregion\n"
    out.write("after")
    assert tty.terminal.text.endswith("region\nafter\n")


def test_line_without_an_end_is_bounded(tty: Tty) -> None:
    """A line that never ends is written when it has become too long to keep."""
    screen = Screen(tty)
    stream = screen.stand_before(tty)
    screen.show(["region"])
    for _ in range(3):
        stream.write("x" * (LONGEST_LINE // 2))
    assert sum(write.count("x") for write in tty.writes) >= LONGEST_LINE


def test_begun_line_goes_on_after_the_region(tty: Tty) -> None:
    """What was begun above a region that has gone since is written before what follows it."""
    screen = Screen(tty)
    stream = screen.stand_before(tty)
    screen.show(["region"])
    stream.write("one ")
    screen.show([])
    stream.write("line\n")
    assert tty.terminal.text == "one line\n"


def test_what_is_typed_is_wiped(tty: Tty) -> None:
    """The echo of Ctrl-C below the region is gone with the next change."""
    screen = Screen(tty)
    screen.show(["1"])
    tty.terminal.feed("^C")
    screen.show(["2"])
    assert tty.terminal.text == "2\n"


def test_narrower_terminal(tty: Tty) -> None:
    """When the terminal has become narrower, the lines that it has broken are all replaced, also after text above them."""
    screen = Screen(tty)
    screen.show(["one two three four", "\x1b[1mfive\x1b[0m"])
    tty.terminal = Terminal(10, 8)
    tty.terminal.feed("one two th\r\nree four\r\nfive\r\n")  # As terminals break what they show.
    screen.write_above("log\n")
    assert tty.terminal.text == "log\none two th\nree four\nfive\n"
    screen.show(["one two three four", "six"])
    assert tty.terminal.text == "log\none two th\nree four\nsix\n"
    screen.show(["one two", "six"])
    assert tty.terminal.text == "log\none two\nsix\n"
    screen.show(["one", "six"])
    tty.terminal = Terminal(4, 8)
    tty.terminal.feed("one\r\nsix\r\n")
    screen.show(["1", "six"])
    assert tty.terminal.text == "1\nsix\n"


def test_streams_keep_what_else_they_can(tty: Tty) -> None:
    """What stands before a stream has its other attributes, and passes on what is written when there is no region."""
    stream = Screen(tty).stand_before(tty)
    print("one", "two", file=stream)
    assert cast(object, stream.getvalue) == cast(object, tty.getvalue)  # pyright: ignore[reportAttributeAccessIssue] - a StringIO's own
    assert tty.terminal.text == "one two\n"


def test_background_is_left_alone(tty: Tty, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another program has the terminal nothing is drawn, and text goes straight through; then it begins anew."""
    owner = os.getpgrp()
    monkeypatch.setattr(os, "tcgetpgrp", lambda _number: owner)
    screen = Screen(tty)
    stream = screen.stand_before(tty)
    screen.show(["1"])
    owner = 1
    tty.terminal.feed("$ \r\n")
    screen.show(["2"])
    stream.write("log\n")
    assert tty.terminal.text == "1\n$\nlog\n"
    owner = os.getpgrp()
    screen.show(["3"])
    assert tty.terminal.text == "1\n$\nlog\n3\n"


@pytest.mark.parametrize("size", [OSError(), os.terminal_size((0, 0)), os.terminal_size((80, 0))])
def test_terminal_without_a_size(tty: Tty, monkeypatch: pytest.MonkeyPatch, size: OSError | os.terminal_size) -> None:
    """A terminal that does not say its size is taken for one of 80 columns and 24 lines."""

    def answer(_number: int) -> os.terminal_size:
        if isinstance(size, OSError):
            raise size
        return size

    monkeypatch.setattr(os, "get_terminal_size", answer)
    assert Screen(tty).size() == USUAL_SIZE


# The streams of this process


@contextmanager
def own_terminal(monkeypatch: pytest.MonkeyPatch) -> Generator[tuple[int, TextIO, TextIO]]:
    """Let stdout and stderr be a terminal of their own; the number is that of its other end."""
    other, own = os.openpty()
    termios.tcsetwinsize(other, (24, 80))
    with os.fdopen(own, "w") as stdout, os.fdopen(os.dup(own), "w") as stderr, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        patch.setattr(sys, "stderr", stderr)
        patch.setenv("TERM", "xterm")
        yield other, stdout, stderr
    os.close(other)


def test_streams_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside, both streams know of the region; they are themselves again after it, whatever happened."""

    def fail() -> None:
        with screen_of_process() as screen:
            assert screen is not None
            assert screen.size() == (80, 24)
            screen.show(["region"])
            print("out", "begun", end="")
            sys.stderr.write("err\n")
            raise ZeroDivisionError

    with own_terminal(monkeypatch) as (other, stdout, stderr):
        with pytest.raises(ZeroDivisionError):
            fail()
        assert (sys.stdout, sys.stderr) == (stdout, stderr)
        terminal = Terminal()
        while terminal.text.count("\n") < 3:  # what was written comes in pieces
            terminal.feed(os.read(other, 10_000).decode())
    assert terminal.text == "err\nout begun\nregion\n"


@pytest.mark.parametrize("name", ["dumb", "unknown", "", None])
def test_dumb_terminal_is_not_drawn_on(monkeypatch: pytest.MonkeyPatch, name: str | None) -> None:
    """A terminal that moves no cursor, or does not say what it is, gets lines."""
    with own_terminal(monkeypatch) as (_, stdout, _):
        if name is None:
            monkeypatch.delenv("TERM")
        else:
            monkeypatch.setenv("TERM", name)
        with screen_of_process() as screen:
            assert screen is None
            assert sys.stdout is stdout


@pytest.mark.parametrize("which", ["stdout", "stderr"])
def test_both_streams_must_be_one_terminal(monkeypatch: pytest.MonkeyPatch, which: str) -> None:
    """With one of them in a file, in another terminal, or without a file number, nothing is drawn."""
    other, own = os.openpty()
    with own_terminal(monkeypatch), open(os.devnull, "w") as file, os.fdopen(own, "w") as elsewhere:
        for stream in (file, elsewhere, io.StringIO(), None):
            with monkeypatch.context() as patch, screen_of_process() as first:
                assert first is not None
                patch.setattr(sys, which, stream)
                with screen_of_process() as screen:
                    assert screen is None
    os.close(other)


def test_background_process_does_not_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is started in the background of its terminal gets no region."""
    monkeypatch.setattr(os, "tcgetpgrp", lambda _number: 1)
    with own_terminal(monkeypatch), screen_of_process() as screen:
        assert screen is None
