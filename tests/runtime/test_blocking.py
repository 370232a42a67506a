"""Who holds the event loop, as another thread reads it from the stack."""

import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec
import pytest

from flowmesh import Mesh, on
from flowmesh._runtime.blocking import MAX_FRAMES, Blocker, find_blocker
from flowmesh.testing import settled

pytestmark = pytest.mark.anyio


class Look:
    """Somebody who looks at this thread from another one, at the moment when `__call__` is called, and keeps what was found."""

    def __init__(self) -> None:
        self.found: list[Blocker | None] = []

    def __call__(self) -> None:
        looking = threading.Thread(target=self._look, args=[threading.get_ident()])
        _ = looking.start(), looking.join(30)  # On one line: it does not matter where this thread has got to.

    def _look(self, thread: int) -> None:
        self.found.append(find_blocker(thread))

    @property
    def only(self) -> Blocker:
        """What was found, if it was one thing."""
        (found,) = self.found
        assert found is not None
        return found


def here(function: Callable[..., object], line: int) -> str:
    """The place that many lines into a function."""
    return f"{__file__}:{function.__code__.co_firstlineno + line} in {function.__name__}"


@contextmanager
def held() -> Generator[int]:
    """A thread that is blocked in `hold`; yields it."""
    blocked, released = threading.Event(), threading.Event()

    def hold() -> None:
        _ = blocked.set(), released.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert blocked.wait(30)
    assert thread.ident is not None
    try:
        yield thread.ident
    finally:
        released.set()
        thread.join(30)


async def test_a_handler_is_named_with_its_message_and_place():
    """The actor, the message, and the innermost line of the handler's own code, whatever library it called."""
    mesh, look = Mesh("shop"), Look()

    def decode(text: bytes) -> object:
        return msgspec.json.decode(text, dec_hook=None, strict=look() is None)

    @mesh.actor
    async def work(text: bytes) -> None:
        decode(text)

    async with mesh:
        await work.tell(b"1", message_id="m1")
        await settled()
    assert look.only.who == "actor 'work' (message m1)"
    # It stands further in, in threading: the line that is named is the one that called it.
    assert look.only.place == here(Look.__call__, 2)
    lines = look.only.stack.splitlines()
    assert f'  File "{__file__}", line {decode.__code__.co_firstlineno + 1}, in decode' in lines
    assert lines[0].endswith(", in work")
    assert "threading.py" in look.only.stack
    assert "scheduler.py" not in look.only.stack


async def test_what_else_runs_on_a_workers_behalf_is_the_actors():
    """A `by=` function runs before a message is in hand: it is named with its actor alone."""
    mesh, look = Mesh("shop"), Look()

    def lane(_number: int) -> None:
        look()

    @mesh.actor(by=lane)
    async def work(number: int) -> None:
        return None

    async with mesh:
        await work.tell(1)
    assert look.only.who == "actor 'work'"


async def test_a_source_is_named():
    """A source that holds the loop is named."""
    mesh, look = Mesh("shop"), Look()

    @mesh.source
    async def poll(ctx: object) -> None:
        look()

    async with mesh:
        await settled()
    assert look.only.who == "source 'poll'"


async def test_a_lifespan_is_named():
    """What an actor does as it starts is named after the actor."""
    mesh, look = Mesh("shop"), Look()

    @mesh.actor
    class Totals:
        async def on_start(self) -> None:
            look()

        @on
        async def add(self, number: int) -> None:
            raise AssertionError("nothing was sent")

    async with mesh:
        pass
    assert look.only.who == "actor 'Totals' (as it starts or stops)"


async def test_other_code_is_known_by_its_place():
    """A task that is none of the mesh's, or that a handler started, has a place and no name."""
    mesh, look = Mesh("shop"), Look()

    async def task() -> None:
        look()

    @mesh.actor
    async def work(number: int) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(task)

    async with mesh, anyio.create_task_group() as group:
        await work.tell(1)
        await settled()
        group.start_soon(task)
    for found in look.found:
        assert found is not None
        assert found.who is None
        assert found.place == here(Look.__call__, 2)
        assert found.stack.splitlines()[0].endswith(", in task")
    assert len(look.found) == 2


async def test_a_loop_that_waits_is_held_by_nobody():
    """A loop that waits for something to happen, and whatever called the loop, holds nothing."""
    loop = threading.get_ident()
    mesh = Mesh("shop")

    @mesh.actor
    async def work(number: int) -> None:
        await anyio.sleep(1)

    def look() -> Blocker | None:
        while (found := find_blocker(loop)) is not None:  # The loop is still on its way to sleep.
            assert found.who is None
        return found

    async with mesh:
        await work.tell(1)
        assert await anyio.to_thread.run_sync(look) is None


def test_a_thread_that_has_ended_is_held_by_nobody():
    """There is no stack to look at any more."""
    with held() as thread:
        assert find_blocker(thread) is not None
    assert find_blocker(thread) is None


def test_two_looks_at_one_call_are_the_same():
    """Looks are the same when they have seen the same call: not two calls of the same function, and not nothing."""
    with held() as thread, held() as other:
        first, second, third = find_blocker(thread), find_blocker(thread), find_blocker(other)
    assert first is not None
    assert first.is_same(second)
    assert not first.is_same(third)
    assert not first.is_same(None)
    assert not first.is_same(Blocker("actor 'a'", first.place, first.stack, first.call))


def test_the_place_is_in_the_applications_own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A library that the application calls is in the stack, not the place; with nothing else, its own line is the place."""
    library = tmp_path / "library.py"
    library.write_text("def call(function):\n    return function()\n")
    monkeypatch.setattr("flowmesh._runtime.blocking._LIBRARIES", (str(tmp_path), str(Path(threading.__file__).parent)))
    monkeypatch.syspath_prepend(tmp_path)
    import library as imported  # pyright: ignore[reportMissingImports] - it was written just now

    def application(function: Callable[[], object]) -> None:
        imported.call(function)

    try:
        for target, place in ((application, here(application, 1)), (imported.call, f"{threading.__file__}:")):
            released = threading.Event()
            thread = threading.Thread(target=target, args=[released.wait])
            thread.start()
            assert thread.ident is not None
            while (found := find_blocker(thread.ident)) is None or ", in wait\n" not in found.stack:
                assert thread.is_alive()  # It is on its way.
            released.set()
            thread.join(30)
            assert found.place.startswith(place)
            assert str(library) in found.stack
    finally:
        del sys.modules["library"]


def test_only_the_innermost_frames_are_shown():
    """However deep the stack is, the text stays short, and its end is where the thread stands."""
    look = Look()

    def left(levels: int) -> None:
        right(levels - 1) if levels else look()

    def right(levels: int) -> None:
        left(levels - 1) if levels else look()

    left(50)
    assert look.only.stack.count("  File ") == MAX_FRAMES
    assert "threading.py" in look.only.stack
