"""Threads that say that they are at work: virtual time waits for them."""

import threading
import time

import anyio
import pytest

from flowmesh.testing import BACKENDS, run
from flowmesh.testing.threads import has_busy_threads
from flowmesh.testing.virtual import Backend


class Busy(threading.Thread):
    """Sets something after a moment of real time, and says that it is at work until then."""

    def __init__(self) -> None:
        super().__init__()
        self.is_at_work = True
        self.done = False

    def run(self) -> None:
        time.sleep(0.05)
        self.done = True
        self.is_at_work = False


@pytest.mark.parametrize("backend", BACKENDS)
def test_time_does_not_jump_over_a_thread_at_work(backend: Backend) -> None:
    """A sleep of an hour ends only when the thread has nothing in hand any more."""

    async def main() -> None:
        thread = Busy()
        thread.start()
        await anyio.sleep(3600)
        assert thread.done
        thread.join()

    run(main, backend=backend)


def test_a_thread_that_says_nothing_is_idle() -> None:
    """Most threads have no such attribute, and hold nothing up."""
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    assert not has_busy_threads()
    stop.set()
    thread.join()
