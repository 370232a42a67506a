"""SIGINT and SIGTERM are heard, in the loop and in a thread, and whoever heard them before hears them again."""

import os
import signal
import threading
from collections.abc import Callable

import anyio
import anyio.to_thread
import pytest

from flowmesh._runtime.parking import parking_here
from flowmesh._runtime.signals import SIGNALS, Signals

pytestmark = pytest.mark.anyio


class Heard:
    """What was called, and an event for each of the two that are called later."""

    def __init__(self) -> None:
        self.counted: list[signal.Signals] = []
        self.in_loop = threading.Event()
        self.at_once = threading.Event()
        self.threads: list[int] = []

    def note(self) -> None:
        """Called in the loop."""
        self.threads.append(threading.get_ident())
        self.in_loop.set()

    def signals(self, call_soon: Callable[[Callable[[], None]], None] | None = None) -> Signals:
        """Signals that tell this."""
        return Signals(
            count=self.counted.append,
            at_once=self.at_once.set,
            in_loop=self.note,
            call_soon=call_soon or parking_here().call_soon,
        )


@pytest.mark.parametrize("number", SIGNALS)
async def test_a_signal_is_counted_at_once_and_told_twice(number: signal.Signals):
    """The signal is counted before anything else runs; then a thread and the loop are told."""
    heard = Heard()
    with heard.signals():
        signal.raise_signal(number)
        assert heard.counted == [number]
        assert await anyio.to_thread.run_sync(heard.at_once.wait, 30)
        while not heard.in_loop.is_set():
            await anyio.lowlevel.checkpoint()
    assert set(heard.threads) == {threading.get_ident()}


async def test_a_blocked_loop_does_not_keep_the_thread_from_hearing():
    """While the loop is blocked by Python code the signal is counted and the thread is told; the loop, when it can."""
    heard = Heard()
    with heard.signals():
        signal.raise_signal(signal.SIGTERM)
        assert heard.at_once.wait(30)  # This blocks the loop.
        assert heard.threads == []
        while not heard.in_loop.is_set():
            await anyio.lowlevel.checkpoint()


async def test_a_signal_that_another_thread_was_handed_is_heard_in_a_blocked_loop():
    """A signal that did not interrupt what the loop is blocked in, since another thread got it, is heard all the same."""
    heard, second = Heard(), threading.Event()

    def count(number: signal.Signals) -> None:
        heard.counted.append(number)
        if number is signal.SIGINT:
            second.set()

    def send() -> None:
        assert heard.at_once.wait(30)
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    sender = threading.Thread(target=send)
    with Signals(count=count, at_once=heard.at_once.set, in_loop=heard.note, call_soon=parking_here().call_soon):
        signal.raise_signal(signal.SIGTERM)
        sender.start()
        assert second.wait(30)  # This blocks the loop.
        assert heard.threads == []
        sender.join(30)
    assert heard.counted == [signal.SIGTERM, signal.SIGINT]


async def test_a_loop_that_sleeps_is_woken():
    """A signal from outside wakes a loop that waits for nothing else."""
    heard, woken = Heard(), anyio.Event()
    parking = parking_here()

    def wake() -> None:
        if heard.counted:
            woken.set()

    signals = Signals(count=heard.counted.append, at_once=heard.at_once.set, in_loop=wake, call_soon=parking.call_soon)
    main = threading.main_thread().ident
    assert main is not None
    with signals:
        await anyio.to_thread.run_sync(signal.pthread_kill, main, signal.SIGTERM)
        await woken.wait()
    assert heard.counted == [signal.SIGTERM]


async def test_who_heard_before_hears_again():
    """Afterwards the handlers and the wake-up are those of before, and no thread is left."""
    before = [signal.getsignal(number) for number in (*SIGNALS, signal.SIGURG)]
    threads = set(threading.enumerate())
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    with Heard().signals():
        assert all(signal.getsignal(number) not in before for number in (*SIGNALS, signal.SIGURG))
    assert [signal.getsignal(number) for number in (*SIGNALS, signal.SIGURG)] == before
    after = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(after)
    assert after == wakeup
    assert set(threading.enumerate()) <= threads


async def test_others_hear_their_signals():
    """What somebody else listens for reaches them, though they sleep."""
    main = threading.main_thread().ident
    assert main is not None
    with anyio.open_signal_receiver(signal.SIGHUP) as others, Heard().signals():
        await anyio.to_thread.run_sync(signal.pthread_kill, main, signal.SIGHUP)
        async for number in others:
            assert number is signal.SIGHUP
            break


async def test_a_wakeup_that_came_later_stays():
    """Who takes the interpreter's wake-up for itself meanwhile keeps it."""
    with anyio.open_signal_receiver(signal.SIGHUP):
        wakeup = signal.set_wakeup_fd(-1)
        signals = Heard().signals()
        signals.__enter__()
        signal.set_wakeup_fd(wakeup)
        signals.__exit__()
        after = signal.set_wakeup_fd(wakeup)
        assert after == wakeup


def test_other_threads_hear_nothing():
    """Outside the main thread, where Python allows no handlers, entering changes nothing and harms nothing."""
    before = [signal.getsignal(number) for number in SIGNALS]
    seen: list[object] = []

    def run() -> None:
        with Heard().signals(call_soon=lambda call: None):
            seen.extend(signal.getsignal(number) for number in SIGNALS)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    assert seen == before


async def test_a_forked_child_does_as_if_nobody_listened(monkeypatch: pytest.MonkeyPatch):
    """A child that was forked inherits the handlers: a signal to it does what it did before, and is not its parent's."""
    heard, before = Heard(), list[int]()
    original = signal.signal(signal.SIGTERM, lambda number, frame: before.append(number))
    try:
        with heard.signals():
            monkeypatch.setattr(os, "getpid", lambda: -1)
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, original)
    assert (heard.counted, before) == ([], [signal.SIGTERM, signal.SIGTERM])


async def test_many_signals_at_once_lose_none():
    """A flood of signals is counted in full, even while the thread does not read."""
    heard, free = Heard(), threading.Event()

    def wait() -> None:
        free.wait(30)

    signals = Signals(count=heard.counted.append, at_once=wait, in_loop=heard.note, call_soon=parking_here().call_soon)
    with signals:
        for _ in range(5_000):
            signal.raise_signal(signal.SIGTERM)
        free.set()
    assert len(heard.counted) == 5_000
