"""`serve` and signals: the first drains, the second stops at once, the third ends the process, whatever the loop does."""

import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest

from flowmesh import Mesh, on
from flowmesh._runtime.drain import EXIT_CLEAN, EXIT_HANDED_BACK, EXIT_HARD
from flowmesh.testing import BACKENDS, VirtualClock

pytestmark = pytest.mark.anyio


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that a thread does, in no time."""
    while not condition():
        await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("signals, code", [(1, EXIT_CLEAN), (2, EXIT_HANDED_BACK)])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_drains_and_a_second_one_stops_at_once(
    number: signal.Signals, signals: int, code: int, caplog: pytest.LogCaptureFixture
):
    """SIGINT and SIGTERM begin the drain; while it drains another one cancels the handlers, and the exit code is 75."""
    caplog.set_level(logging.INFO, "flowmesh.shop")
    mesh = Mesh("shop", grace=100)
    lines = [f"{number.name}: draining for up to 100 s", f"{number.name} again: stopping at once"][:signals]

    @mesh.actor
    async def slow(_: None) -> None:
        for line in lines:
            signal.raise_signal(number)
            await until(lambda: line in caplog.messages)  # noqa: B023 - called in this turn of the loop only
        await anyio.sleep(5)

    @mesh.source
    async def poll(ctx: object) -> None:
        await slow.tell()

    began = anyio.current_time()
    assert await mesh.serve() == code
    assert anyio.current_time() - began == pytest.approx(5 if signals == 1 else 0, abs=0.01)
    assert [line for line in caplog.messages if number.name in line] == lines
    assert mesh.report is not None
    assert mesh.report.handed_back == signals - 1


async def test_a_signal_during_another_drain_stops_at_once(caplog: pytest.LogCaptureFixture):
    """A drain that `stop()` began is the first stage: a signal during it is the second."""
    mesh = Mesh("shop", grace=100)

    @mesh.actor
    async def slow(_: None) -> None:
        mesh.stop()
        signal.raise_signal(signal.SIGTERM)
        await until(lambda: caplog.messages)
        await anyio.sleep(1)

    @mesh.source
    async def poll(ctx: object) -> None:
        await slow.tell()

    assert await mesh.serve() == EXIT_HANDED_BACK
    assert "SIGTERM again: stopping at once" in caplog.messages


class SignallingClock(VirtualClock):
    """A clock that a number of signals meet while the mesh starts."""

    def __init__(self, signals: int) -> None:
        super().__init__()
        self.signals = signals

    def start(self) -> None:
        super().start()
        for _ in range(self.signals):
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("signals", [1, 2])
async def test_a_signal_while_the_mesh_starts_is_not_lost(signals: int, caplog: pytest.LogCaptureFixture):
    """A mesh that is told to stop while it starts drains as soon as it runs: its sources do not begin."""
    caplog.set_level(logging.INFO, "flowmesh.shop")
    mesh = Mesh("shop", clock=SignallingClock(signals))

    @mesh.source
    async def poll(ctx: object) -> None:
        raise AssertionError("started")

    assert await mesh.serve() == EXIT_CLEAN
    lines = ["SIGTERM: draining for up to 30 s", "SIGTERM again: stopping at once"]
    assert [line for line in caplog.messages if "SIGTERM" in line] == lines[:signals]


async def test_a_second_signal_while_the_mesh_starts_cancels_the_start(monkeypatch: pytest.MonkeyPatch):
    """A start that takes its time goes on after one signal, and is cancelled by the next; nothing was left: 0."""
    mesh, steps = Mesh("shop"), list[str]()

    async def start() -> None:
        signal.raise_signal(signal.SIGTERM)
        for _ in range(1000):
            await anyio.lowlevel.checkpoint()
        steps.append("one signal")
        signal.raise_signal(signal.SIGINT)
        await anyio.sleep_forever()

    monkeypatch.setattr(mesh._engine, "start", start)
    assert await mesh.serve() == EXIT_CLEAN
    assert steps == ["one signal"]
    monkeypatch.undo()
    async with mesh:  # It had not been started, and can be.
        pass


@pytest.mark.parametrize("signals", [1, 2])
async def test_signals_while_a_class_actor_starts(signals: int):
    """A lifespan that is being entered is finished after one signal, and cancelled by a second; sources do not begin."""
    mesh, steps = Mesh("shop"), list[str]()

    @mesh.actor
    class Totals:
        @asynccontextmanager
        async def lifespan(self) -> AsyncGenerator[None]:
            for _ in range(signals):
                signal.raise_signal(signal.SIGTERM)
            for _ in range(1000):
                await anyio.lowlevel.checkpoint()
            steps.append("entered")
            yield
            steps.append("left")

        @on
        async def add(self, number: int) -> None:
            raise AssertionError("nothing was sent")

    @mesh.source
    async def poll(ctx: object) -> None:
        raise AssertionError("started")

    assert await mesh.serve() == EXIT_CLEAN
    assert steps == (["entered", "left"] if signals == 1 else [])


async def test_a_start_that_was_cancelled_has_no_report_of_an_earlier_run():
    """The exit code is that of this run, of which nothing is left, and not of the one before, which handed work back."""
    mesh, signals = Mesh("shop", grace=0), list[signal.Signals]()

    class Pool:
        pass

    @asynccontextmanager
    async def open_pool() -> AsyncGenerator[Pool]:
        for number in signals:
            signal.raise_signal(number)
        for _ in range(1000):
            await anyio.lowlevel.checkpoint()
        yield Pool()

    mesh.provide(Pool, open_pool)

    @mesh.actor
    async def slow(_: None, pool: Pool) -> None:
        mesh.stop()
        await anyio.sleep(1)

    @mesh.source
    async def poll(ctx: object) -> None:
        await slow.tell()

    assert await mesh.serve() == EXIT_HANDED_BACK
    signals += [signal.SIGTERM, signal.SIGTERM]
    assert await mesh.serve() == EXIT_CLEAN
    assert mesh.report is None


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The codes that the process would have ended with."""
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    return codes


async def test_a_third_signal_ends_the_process(exits: list[int], caplog: pytest.LogCaptureFixture):
    """Who asks a third time does not want to wait for a handler that does not end: it is named, and the code is 70."""
    mesh = Mesh("shop", grace=100)

    @mesh.actor
    async def stubborn(_: None) -> None:
        with anyio.CancelScope(shield=True):
            for _number in range(3):
                signal.raise_signal(signal.SIGTERM)
            await until(lambda: exits)

    @mesh.source
    async def poll(ctx: object) -> None:
        await stubborn.tell(message_id="m1")

    await mesh.serve()
    assert exits == [EXIT_HARD]
    (line,) = (line for line in caplog.messages if "does not end" in line)
    assert "actor 'stubborn' (message m1)" in line
    assert "leaving the process with exit code 70" in line


async def test_a_third_signal_ends_the_process_though_the_loop_is_blocked(
    exits: list[int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """A handler that blocks the loop keeps nobody from ending the process, and the log says where it stands."""
    mesh, released = Mesh("shop", grace=100), threading.Event()
    monkeypatch.setattr(os, "_exit", lambda code: (exits.append(code), released.set()))

    @mesh.actor
    async def block(_: None) -> None:
        for _number in range(3):
            signal.raise_signal(signal.SIGTERM)
        released.wait(30)

    @mesh.source
    async def poll(ctx: object) -> None:
        await block.tell(message_id="m1")

    await mesh.serve()
    assert exits == [EXIT_HARD]
    (line,) = (line for line in caplog.messages if "does not end" in line)
    assert line.startswith("mesh 'shop' does not end: actor 'block' (message m1) holds the event loop at " + __file__)


async def test_nothing_is_left_behind():
    """After `serve` there is no thread and no time limit of it any more, whether it ended well or not."""
    mesh, threads = Mesh("shop"), set(threading.enumerate())
    before = signal.getsignal(signal.SIGTERM)

    @mesh.source
    async def poll(ctx: object) -> None:
        mesh.stop()
        if mesh.report is None and fails:
            raise OSError("feed")

    for fails in (False, True):
        try:
            await mesh.serve()
        except OSError:
            assert fails
        assert mesh._engine.hard_exit is None
        assert signal.getsignal(signal.SIGTERM) is before
        left = {thread for thread in threading.enumerate() if thread.name.startswith("flowmesh")} - threads
        for thread in left:
            thread.join(30)  # Ended, and on its way out.
            assert not thread.is_alive()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("signals", [1, 2])
def test_a_process_whose_loop_is_blocked_ends_by_signals(backend: str, signals: int):
    """A handler that sleeps for real does not keep signals from being heard: the process ends hard, in time, and says why."""
    program = f"""
        import logging, time
        from flowmesh import Mesh, on
        from flowmesh._runtime import serving
        serving.PATIENCE = 1.5
        logging.basicConfig(format="%(message)s")
        mesh = Mesh("shop", grace={0 if signals == 1 else 1000})

        @mesh.actor
        async def block(_: None) -> None:
            print("blocking", flush=True)
            time.sleep(60)

        @mesh.source
        async def poll(ctx) -> None:
            await block.tell(message_id="m1")

        mesh.run(backend={backend!r})
        """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "blocking\n"
        for number in (signal.SIGTERM, signal.SIGINT)[:signals]:
            child.send_signal(number)
        _, errors = child.communicate(timeout=50)
    assert child.returncode == EXIT_HARD, errors
    place = "<string>:12 in block"
    assert f"actor 'block' (message m1) blocks the event loop: for 1 s it has been at {place}" in errors
    assert f"mesh 'shop' does not end: actor 'block' (message m1) holds the event loop at {place}; leaving" in errors
