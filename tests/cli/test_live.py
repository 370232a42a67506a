"""`flowmesh run` in a terminal: what it shows, and how it leaves the terminal."""

import logging
import os
import re
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Generator
from pathlib import Path
from threading import Event
from typing import Any

import anyio.to_thread
import pytest

from flowmesh import ActorContext, Mesh
from flowmesh.cli.live import LiveView
from flowmesh.cli.screen import Screen
from tests.cli.terminal import Terminal

ROOT = Path(__file__).parents[2]
# A session leader without a terminal gets the one that it opens: keys are then signals, as in a shell.
COMMAND = """
import os, sys
os.close(os.open(os.ttyname(0), os.O_RDWR))
from flowmesh.cli import main
sys.exit(main())
"""
BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])
LONG = """
    import signal, anyio
    from flowmesh import ActorContext, Mesh

    mesh = Mesh("[bold]shop[/bold]", grace={grace})

    @mesh.actor(name="sell.\\x1b[2J[red]tea[/red]\\nand.biscuits.for.the.north.and.the.south.of.the.country")
    async def sell(number: int) -> None:
        print("sold", number)
        if number == 3:
            await {until}

    @mesh.source
    async def customers(ctx: ActorContext) -> None:
        while signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            await anyio.sleep(0)
        for number in range(4):
            await sell.tell(number)
        ctx.log.info("[bold]four[/bold]\\x1b[2J")
        await anyio.sleep_forever()
"""

Write = Callable[[str, str], Path]


class Session:
    """The command in a terminal of its own: what it wrote, and what the terminal shows of it."""

    def __init__(self, folder: Path, *arguments: str, term: str = "xterm-256color") -> None:
        self.terminal = Terminal(80, 24)
        self.written = ""
        self._other, self._own = os.openpty()
        termios.tcsetwinsize(self._other, (self.terminal.height, self.terminal.columns))
        self.before = termios.tcgetattr(self._own)
        self.process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, *arguments],
            stdin=self._own,
            stdout=self._own,
            stderr=self._own,
            start_new_session=True,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", "TERM": term, "NO_COLOR": "1"},
        )

    def read_until(self, pattern: str) -> None:
        """Read on until the terminal shows this somewhere."""
        while not re.search(pattern, "\n".join(self.terminal.display)):
            self._read()

    def type(self, keys: str) -> None:
        """Type into the terminal."""
        os.write(self._other, keys.encode())

    def end(self) -> int:
        """Wait for the command's end, read what is left, and return its exit code."""
        while self.process.poll() is None:
            self._read(0.01)
        while self._read(0.0):
            pass
        return self.process.returncode

    def settings(self) -> list[Any]:
        """Return the terminal's settings as they are now."""
        return termios.tcgetattr(self._own)

    def close(self) -> None:
        """Leave nothing behind."""
        with self.process:
            self.process.kill()
        os.close(self._other)
        os.close(self._own)

    def _read(self, seconds: float | None = None) -> bool:
        if not select.select([self._other], [], [], seconds)[0]:
            return False
        text = os.read(self._other, 65_536).decode(errors="replace")
        self.written += text
        self.terminal.feed(text)
        return True


@pytest.fixture
def session(folder: Path) -> Generator[Callable[..., Session]]:
    """Start the command in a terminal; what a failed test leaves is killed."""
    sessions: list[Session] = []

    def start(*arguments: str, **options: str) -> Session:
        sessions.append(Session(folder, *arguments, **options))
        return sessions[-1]

    yield start
    for each in sessions:
        each.close()


def assert_left_well(session: Session) -> None:
    """The cursor was never hidden, stands on a line of its own, and the terminal's settings are as before."""
    assert session.terminal.cursor_visible
    assert "\x1b[?" not in session.written
    assert session.terminal.column == 0
    assert session.settings() == session.before


@BACKENDS
def test_ctrl_c_restores_the_terminal(write: Write, session: Callable[..., Session], backend: str) -> None:
    """The table stays below what is written; after Ctrl-C the last state stands there once, and the summary after it."""
    write("shop.py", LONG.format(grace=0.0, until="anyio.sleep_forever()"))
    running = session("run", "shop.py", "--backend", backend)
    running.read_until(r"running .*1 busy.*\n.*\n.* 1 +0 +3 ")
    lines = running.terminal.display
    head = next(number for number, line in enumerate(lines) if line.startswith("[bold]shop[/bold]  running  "))
    assert {"sold 0", "sold 3"} <= set(lines[:head])
    assert r"[customers] [bold]four[/bold]\x1b[2J" in "".join(lines[:head])
    assert lines[head - 1] == ""
    assert lines[head + 1] == "mailbox                    ready  leased  delayed  acked   dead  rate/s  oldest"
    assert re.fullmatch(r"sell\.\\x1b\[2J…\.the\.country +0 +1 +0 +3 +0 +[\d.]+", lines[head + 2]), lines[head + 2]
    assert lines[head + 3 :] == [""] * (21 - head)
    running.type("\x03")
    assert running.end() == 75
    assert_left_well(running)
    text = running.terminal.text
    assert text.count("  stopped  ") == 1
    assert text.count("  running  ") == text.count("  draining  ") == 0
    order = [text.index(each) for each in ("SIGINT: draining", "  stopped  ", "expired  dropped", "\nmesh '[bold]shop[/bold]'")]
    assert order == sorted(order)


def test_second_ctrl_c_stops_at_once(write: Write, session: Callable[..., Session]) -> None:
    """The view says that the mesh drains; a second Ctrl-C ends that, and the terminal is left well all the same."""
    write("shop.py", LONG.format(grace=3600, until="anyio.sleep_forever()"))
    running = session("run", "shop.py")
    running.read_until(r" 1 +0 +3 ")
    running.type("\x03")
    running.read_until(r"\[bold\]shop\[/bold\]  draining ")
    running.type("\x03")
    assert running.end() == 75
    assert_left_well(running)
    assert "SIGINT again: stopping at once" in running.terminal.text


def test_error_is_shown_below(write: Write, session: Callable[..., Session]) -> None:
    """When the mesh stops by itself its last state, the summary and the traceback stand below each other."""
    write(
        "broken.py",
        """
        from flowmesh import ActorContext, Mesh
        mesh = Mesh("broken")
        mesh.mailbox("shelf")

        @mesh.source
        async def feed(ctx: ActorContext) -> None:
            raise ValueError("no [red]till[/red]\\x1b[2J")
        """,
    )
    running = session("run", "broken.py")
    assert running.end() == 1
    assert_left_well(running)
    text = running.terminal.text
    assert text.endswith("ValueError: no [red]till[/red]\\x1b[2J\n")
    assert text.index("broken  stopped") < text.index("expired  dropped") < text.index("Traceback")
    assert "ExceptionGroup" not in text


@pytest.mark.parametrize("end", ["os._exit(70)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_hard_end_leaves_the_cursor(write: Write, session: Callable[..., Session], end: str) -> None:
    """However the process ends, the cursor can be seen and stands below the table."""
    path = write("hard.py", LONG.format(grace=30, until="anyio.to_thread.run_sync(wait)"))
    path.write_text(f"import anyio.to_thread, os\ndef wait():\n    input()\n    {end}\n{path.read_text()}")
    running = session("run", "hard.py")
    running.read_until(r" 1 +0 +3 ")
    running.type("\n")
    assert running.end() in (70, -signal.SIGKILL)
    assert_left_well(running)
    assert re.search(r"mailbox .*\nsell.*\n+\Z", running.terminal.text)


@pytest.mark.parametrize("arguments, term", [(["--plain"], "xterm"), ([], "dumb")])
def test_plain(write: Write, session: Callable[..., Session], arguments: list[str], term: str) -> None:
    """With --plain, and in a terminal that can only write lines, there are log lines and no table."""
    write("shop.py", LONG.format(grace=0.0, until="anyio.sleep_forever()"))
    running = session("run", "shop.py", *arguments, term=term)
    running.read_until("sold 3")
    running.type("\x03")
    assert running.end() == 75
    assert_left_well(running)
    assert "mailbox  " in running.terminal.text  # The summary's.
    assert "oldest" not in running.written
    assert not re.search(r"\x1b\[\d*[AJK]", running.written)


# In this process


@pytest.fixture
def screen() -> Generator[Screen]:
    """A terminal that nobody looks at."""
    other, own = os.openpty()
    with os.fdopen(own, "w") as stream:
        yield Screen(stream)
    os.close(other)


@pytest.mark.anyio
async def test_error_leaves_bare(screen: Screen) -> None:
    """What stops the mesh leaves the view as it leaves `mesh.serve`: bare, in no group."""
    mesh = Mesh("broken")

    @mesh.source
    async def feed(ctx: ActorContext) -> None:
        raise KeyError("till")

    with LiveView(mesh, screen) as view, pytest.raises(KeyError, match="till"):
        await view.serve()
    assert not screen.has_region


@pytest.mark.anyio
@pytest.mark.parametrize("broken", ["_read", "_draw"])
async def test_view_that_fails_does_not_stop_the_mesh(
    screen: Screen, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    """Numbers that cannot be read, or a terminal that is gone, end the view with a traceback in the log, and nothing else."""
    mesh = Mesh("shop")
    called = Event()

    def fail(_view: LiveView) -> float:
        called.set()
        raise OSError("the terminal is gone")

    @mesh.source
    async def feed(ctx: ActorContext) -> None:
        await anyio.to_thread.run_sync(called.wait)
        mesh.stop()

    monkeypatch.setattr(LiveView, broken, fail)
    with caplog.at_level(logging.ERROR), LiveView(mesh, screen) as view:
        assert await view.serve() == 0
    assert "OSError: the terminal is gone" in caplog.text
