"""The watchdog: who blocks an event loop is named, once; whoever lets it go on is not. Its looks are driven by the tests."""

import logging
import queue
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest

from flowmesh import Mesh
from flowmesh._runtime import engine
from flowmesh._runtime.blocking import Blocker
from flowmesh._runtime.watchdog import INTERVAL, LOOKS, Watch, Watchdog
from flowmesh.testing import BACKENDS

LOG = logging.getLogger("flowmesh.shop")
BLOCKER = Blocker("actor 'work' (message m1)", "app.py:3 in work", "  the stack", 1)
OTHER = Blocker("actor 'work' (message m2)", "app.py:3 in work", "  the stack", 2)
NAMED = (
    "actor 'work' (message m1) blocks the event loop: for 1 s it has been at app.py:3 in work, and nothing else could run; "
    "let it await, or declare a handler with a plain def, which runs in a thread\n  the stack"
)


class Scene:
    """A watchdog, and a loop that answers when `answer` is called."""

    def __init__(self) -> None:
        self.asked: list[Callable[[], None]] = []
        self.standing: Blocker | None = BLOCKER
        self.thread: int | None = None
        self.is_running = True
        self.watchdog = Watchdog(
            "shop", LOG, 42, is_running=lambda: self.is_running, call_soon=self.asked.append, find=self._find
        )

    def _find(self, thread: int) -> Blocker | None:
        self.thread = thread
        return self.standing

    def look(self, times: int = 1) -> None:
        """Let it look."""
        for _ in range(times):
            self.watchdog.look()

    def answer(self) -> None:
        """Let the loop do what it was asked to."""
        self.asked.pop()()
        assert not self.asked


class Looks:
    """What a watch waits with: each look happens when `go_on` is called, in one of `threads`."""

    def __init__(self) -> None:
        self._looks = queue.SimpleQueue[None]()
        self._waits = queue.SimpleQueue[float]()
        self.threads: list[threading.Thread] = []

    def __call__(self, seconds: float) -> None:
        thread = threading.current_thread()
        if thread not in self.threads:
            self.threads.append(thread)
        self._waits.put(seconds)
        self._looks.get(timeout=30)

    def go_on(self) -> None:
        """Let the watch look."""
        assert self._waits.get(timeout=30) == INTERVAL
        self._looks.put(None)

    def until_waiting(self) -> None:
        """Wait until it has looked, and waits again."""
        self._waits.put(self._waits.get(timeout=30))

    def end(self) -> None:
        """Let the thread look for the last time, and wait for its end."""
        self.go_on()
        self.threads[-1].join(30)
        assert not self.threads[-1].is_alive()


@pytest.fixture
def scene() -> Scene:
    """A watchdog that is let look by the test."""
    return Scene()


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


def test_what_another_mesh_does_is_its_own_to_name(scene: Scene, caplog: pytest.LogCaptureFixture):
    """Of several meshes on one loop that one names who blocks it as whose part; what is nobody's part each of them names."""
    scene.standing = Blocker("actor 'work' (message m1)", "app.py:3 in work", "  the stack", 1, "bank")
    scene.look(2 * LOOKS)
    assert caplog.messages == []
    scene.answer()
    scene.standing = Blocker("actor 'work' (message m1)", "app.py:3 in work", "  the stack", 1, "shop")
    scene.look(1 + LOOKS)
    assert caplog.messages == [NAMED]


def test_a_loop_that_does_not_run_is_not_blocked(scene: Scene, caplog: pytest.LogCaptureFixture):
    """A loop that is stopped blames nobody, and is asked nothing anew; when it runs on, its looks count from the beginning."""
    scene.look(1 + LOOKS - 1)
    scene.is_running = False
    scene.look(2 * LOOKS)
    scene.is_running = True
    scene.look(LOOKS - 1)
    assert (caplog.messages, len(scene.asked)) == ([], 1)
    scene.look()
    assert caplog.messages == [NAMED]


def test_one_thread_lets_all_look():
    """The first watchdog starts the thread, it lets all look, and it ends with its next look when the last is gone."""
    looks, one, other = Looks(), Scene(), Scene()
    watch = Watch(wait=looks)
    watch.add(one.watchdog)
    watch.add(other.watchdog)
    looks.go_on()
    looks.until_waiting()
    watch.remove(one.watchdog)
    watch.remove(one.watchdog)
    assert (len(one.asked), len(other.asked)) == (1, 1)
    one.answer()
    other.answer()
    looks.go_on()
    looks.until_waiting()
    assert (len(one.asked), len(other.asked)) == (0, 1)
    watch.remove(other.watchdog)
    assert (len(looks.threads), looks.threads[0].daemon) == (1, True)
    looks.end()


def test_the_thread_stays_for_who_comes_next():
    """A watchdog that is added before the thread has missed the last one needs no other thread; one that comes later does."""
    looks, one, other = Looks(), Scene(), Scene()
    watch = Watch(wait=looks)
    watch.add(one.watchdog)
    looks.until_waiting()
    watch.remove(one.watchdog)
    watch.add(other.watchdog)
    looks.go_on()
    looks.until_waiting()
    assert (len(looks.threads), len(one.asked), len(other.asked)) == (1, 0, 1)
    watch.remove(other.watchdog)
    looks.end()
    watch.add(one.watchdog)
    looks.until_waiting()
    assert len(looks.threads) == 2
    watch.remove(one.watchdog)
    looks.end()


def test_a_log_that_fails_harms_nobody_else():
    """What goes wrong in the look of one watchdog keeps the others from nothing."""
    looks, one, other = Looks(), Scene(), Scene()
    watch = Watch(wait=looks)
    one.watchdog._call_soon = fail
    watch.add(one.watchdog)
    watch.add(other.watchdog)
    looks.go_on()
    looks.until_waiting()
    assert len(other.asked) == 1
    watch.remove(one.watchdog)
    watch.remove(other.watchdog)
    looks.end()


def fail(_call: Callable[[], None]) -> None:
    """Fail, as a log may."""
    raise OSError("disk")


def test_a_fork_watches_for_itself():
    """A child has neither the thread nor the loops of its parent: it begins anew, though a lock was held when it was forked."""
    looks, one, other = Looks(), Scene(), Scene()
    watch = Watch(wait=looks)
    watch.add(one.watchdog)
    looks.until_waiting()
    with watch._lock:
        watch.begin_anew()
    watch.remove(one.watchdog)
    watch.add(other.watchdog)
    assert set(watch._watchdogs) == {other.watchdog}
    watch.remove(other.watchdog)
    for _ in range(2):
        looks.go_on()
    for thread in looks.threads:
        thread.join(30)


# In a mesh. On loops with real time: no watchdog is on others.


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", BACKENDS)
@pytest.mark.parametrize("run", ["with", "lifespan", "serve"])
async def test_a_running_mesh_is_watched(run: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    """However a mesh is run, who blocks its loop is named with actor, message and line; and the mesh goes on."""
    mesh, blocked, released, ended = Mesh("shop"), threading.Event(), threading.Event(), threading.Event()
    looks = 0

    def wait(_seconds: float) -> None:
        nonlocal looks
        looks += 1
        blocked.wait(30)
        if looks > 1 + LOOKS:
            released.set()
            ended.wait(30)

    watch = Watch(wait=wait)
    monkeypatch.setattr(engine, "WATCH", watch)

    def hold() -> None:
        _ = blocked.set(), released.wait(30)

    @mesh.actor
    async def block(_: None) -> None:
        hold()
        mesh.stop()

    async def tell(ctx: object) -> None:
        del ctx
        await block.tell(message_id="m1")
        await mesh.idle()

    try:
        if run == "serve":
            mesh.source(tell)
            await mesh.serve()
        else:
            async with mesh if run == "with" else mesh.lifespan():
                await tell(None)
        assert not watch._watchdogs
    finally:
        ended.set()
    line = f"{__file__}:{hold.__code__.co_firstlineno + 1} in hold"
    (named,) = (record for record in caplog.records if record.levelname == "ERROR")
    assert named.getMessage().startswith(
        f"actor 'block' (message m1) blocks the event loop: for 1 s it has been at {line}, and nothing else could run"
    )


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", BACKENDS)
async def test_a_mesh_that_does_not_start_is_not_watched(monkeypatch: pytest.MonkeyPatch):
    """It is watched while it starts, but no longer when that has failed."""
    mesh, watch = Mesh("shop"), Watch(wait=lambda _: None)
    monkeypatch.setattr(engine, "WATCH", watch)

    @asynccontextmanager
    async def disk() -> AsyncGenerator[str]:
        assert len(watch._watchdogs) == 1
        raise OSError("disk")
        yield "disk"

    mesh.provide(str, disk)

    @mesh.actor
    async def use(_: None, disk: str) -> None: ...

    with pytest.raises(OSError, match="disk"):
        async with mesh:
            raise AssertionError
    assert not watch._watchdogs


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", BACKENDS)
async def test_a_mesh_starts_where_no_thread_can(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    """Where no thread can be started any more the mesh does without, and says so."""
    mesh, watch = Mesh("shop"), Watch()
    monkeypatch.setattr(engine, "WATCH", watch)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    async with mesh:
        assert not watch._watchdogs
    assert caplog.messages == ["mesh 'shop': who blocks the event loop will not be named: can't start new thread"]


def refuse(_thread: threading.Thread) -> None:
    """Refuse, as the system does when there are too many."""
    raise RuntimeError("can't start new thread")


@pytest.mark.anyio
async def test_virtual_time_is_not_watched(monkeypatch: pytest.MonkeyPatch):
    """Nobody watches a loop with virtual time: thousands of tests start no thread."""
    watch = Watch()
    monkeypatch.setattr(engine, "WATCH", watch)
    async with Mesh("shop"):
        assert (watch._thread, len(watch._watchdogs)) == (None, 0)
