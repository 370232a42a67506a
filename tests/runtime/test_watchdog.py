"""The watchdog: who blocks an event loop is named, once; whoever lets it go on is not. Its looks are driven by the tests."""

import logging
import queue
import threading
from collections.abc import Callable, Generator

import pytest

from flowmesh._runtime.blocking import Blocker
from flowmesh._runtime.watchdog import INTERVAL, LOOKS, Watchdog

LOG = logging.getLogger("flowmesh.shop")
BLOCKER = Blocker("actor 'work' (message m1)", "app.py:3 in work", "  the stack", 1)
OTHER = Blocker("actor 'work' (message m2)", "app.py:3 in work", "  the stack", 2)
NAMED = (
    "actor 'work' (message m1) blocks the event loop: for 1 s it has been at app.py:3 in work, and nothing else could run; "
    "let it await, or declare a handler with a plain def, which runs in a thread\n  the stack"
)


class Scene:
    """A watchdog whose looks happen when `look` is called, and a loop that answers when `answer` is."""

    def __init__(self) -> None:
        self.asked: list[Callable[[], None]] = []
        self.standing: Blocker | None = BLOCKER
        self.thread: int | None = None
        self._looks = queue.SimpleQueue[bool]()
        self._looked = queue.SimpleQueue[float]()
        self.watchdog = Watchdog(LOG, 42, self.asked.append, wait=self._wait, find=self._find)

    def _wait(self, seconds: float) -> bool:
        self._looked.put(seconds)
        return self._looks.get(timeout=30)

    def _find(self, thread: int) -> Blocker | None:
        self.thread = thread
        return self.standing

    def start(self) -> None:
        """Start it, and wait until it waits."""
        self.watchdog.start()
        assert self._looked.get(timeout=30) == INTERVAL

    def look(self, times: int = 1) -> None:
        """Let it look, and wait until it waits again."""
        for _ in range(times):
            self._looks.put(False)
            assert self._looked.get(timeout=30) == INTERVAL

    def answer(self) -> None:
        """Let the loop do what it was asked to."""
        self.asked.pop()()
        assert not self.asked

    def end(self) -> None:
        """Let it end."""
        self._looks.put(True)
        self.watchdog.stop()


@pytest.fixture
def scene() -> Generator[Scene]:
    """A watchdog that watches."""
    made = Scene()
    made.start()
    yield made
    made.end()


def test_a_loop_that_answers_is_left_alone(scene: Scene, caplog: pytest.LogCaptureFixture):
    """Nobody looks for somebody to blame while the loop answers, and it is asked once at a time."""
    for _ in range(10):
        scene.look()
        scene.answer()
    assert scene.thread is None
    assert caplog.messages == []


def test_who_blocks_is_named_once_after_a_second(scene: Scene, caplog: pytest.LogCaptureFixture):
    """After LOOKS looks without an answer whoever blocks the loop is named, with the place and the stack; not again later."""
    scene.look(1 + LOOKS - 1)
    assert caplog.messages == []
    scene.look()
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [("ERROR", NAMED)]
    scene.look(20)
    assert len(caplog.messages) == 1
    assert (scene.thread, len(scene.asked)) == (42, 1)
    assert (LOOKS + 1) * INTERVAL <= 1.5


def test_an_answer_in_time_begins_anew(scene: Scene, caplog: pytest.LogCaptureFixture):
    """A loop that answers within the second was not blocked; the next one counts from the beginning."""
    for _ in range(3):
        scene.look(1 + LOOKS - 1)
        scene.answer()
    assert caplog.messages == []
    scene.look(1 + LOOKS)
    assert caplog.messages == [NAMED]


def test_who_blocks_again_is_named_again(scene: Scene, caplog: pytest.LogCaptureFixture):
    """Each time that the loop is blocked somebody is named."""
    for _ in range(2):
        scene.look(1 + LOOKS)
        scene.answer()
    assert caplog.messages == [NAMED, NAMED]


def test_short_calls_are_not_mistaken_for_a_long_one(scene: Scene, caplog: pytest.LogCaptureFixture):
    """When each look sees another call nobody is named, however late the loop is; who then stays is."""
    for number in range(4 * LOOKS):
        scene.standing = (BLOCKER, OTHER, None)[number % 3]
        scene.look()
    assert caplog.messages == []
    scene.standing = BLOCKER
    scene.look(2)
    assert len(caplog.messages) == 1


def test_what_has_no_name_is_known_by_its_place(scene: Scene, caplog: pytest.LogCaptureFixture):
    """A blocking call in nobody's name is told by its place."""
    scene.standing = Blocker(None, "app.py:3 in tick", "  the stack", 1)
    scene.look(1 + LOOKS)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("something of the application blocks the event loop: for 1 s it has been at app.py:3")


def test_it_can_start_again(caplog: pytest.LogCaptureFixture):
    """Starting twice is starting once; after a stop it starts anew and has forgotten what it saw."""
    scene = Scene()
    for _ in range(2):
        scene.start()
        thread = scene.watchdog._thread
        scene.watchdog.start()
        assert scene.watchdog._thread is thread
        scene.look(LOOKS)
        scene.end()
        assert thread is not None
        thread.join(30)
    assert caplog.messages == []
    scene.watchdog.stop()


def test_it_ends_without_being_looked_after():
    """Left to itself it waits for real, and `stop` ends it at once."""
    asked = threading.Event()
    watchdog = Watchdog(LOG, 42, lambda call: asked.set(), find=lambda thread: None)
    watchdog.start()
    thread = watchdog._thread
    assert thread is not None
    assert asked.wait(30)
    watchdog.stop()
    thread.join(30)
    assert not thread.is_alive()
