"""The cancellation sweep: it counts exactly, finds planted faults, and always ends."""

import asyncio

import anyio
import anyio.lowlevel
import pytest
import trio

from flowmesh.testing import BACKENDS, Swept, cancel_sweep, run
from flowmesh.testing.sweep import When
from flowmesh.testing.virtual import Backend


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend in turn."""
    return request.param


def test_every_checkpoint_is_cancelled_once_in_each_way(backend: Backend):
    """Each suspension is visited parked and woken, in order; the last run is not cancelled and ends it."""

    async def main() -> None:
        visited: list[tuple[int | None, When | None, bool, str | None]] = []

        async def swept() -> str:
            await anyio.sleep(1)
            await anyio.sleep(1)
            return "done"

        def check(run: Swept[str]) -> None:
            visited.append((run.checkpoint, run.when, run.cancelled, run.value))

        assert await cancel_sweep(swept, check) == 2
        assert visited == [
            (1, "parked", True, None),
            (1, "woken", True, None),
            (2, "parked", True, None),
            (2, "woken", True, None),
            (None, None, False, "done"),
        ]

    run(main, backend=backend)


def test_only_the_swept_coroutine_counts(backend: Backend):
    """Suspensions of other tasks, children of the swept coroutine included, are not counted."""

    async def main() -> None:
        async def busy() -> None:
            for _ in range(50):
                await anyio.lowlevel.checkpoint()

        async def swept() -> None:
            await anyio.sleep(1)

        async with anyio.create_task_group() as group:
            group.start_soon(busy)
            assert await cancel_sweep(swept) == 1

    run(main, backend=backend)


@pytest.mark.parametrize("ways", [("parked",), ("woken",)])
def test_planted_fault_is_found(backend: Backend, ways: tuple[When, ...]):
    """A coroutine that holds an item across its third await and loses it is found, with the number and the place."""

    async def main() -> None:
        box: list[str] = []
        taken: list[str] = []

        async def move() -> None:
            await anyio.sleep(1)
            await anyio.sleep(1)
            item = box.pop()
            await anyio.sleep(1)
            await anyio.sleep(1)
            taken.append(item)

        def make():
            box[:], taken[:] = ["item"], []
            return move()

        def check(_: Swept[None]) -> None:
            assert box + taken == ["item"]

        with pytest.raises(AssertionError) as caught:
            await cancel_sweep(make, check, when=ways)
        (note,) = [note for note in caught.value.__notes__ if note.startswith("cancel_sweep")]
        assert f"cancelled at checkpoint 3 ({ways[0]})" in note
        assert "move (test_sweep.py:" in note

    run(main, backend=backend)


def test_lost_wake_up_is_found_on_asyncio():
    """A wake-up that was already on its way when the cancellation came is lost by this queue: only "woken" shows it."""

    async def main() -> None:
        class Line:
            """A counter with one waiter, which forgets a wake-up that its waiter did not live to see."""

            def __init__(self) -> None:
                self.left = 0
                self.waiter: asyncio.Future[None] | None = None

            async def take(self) -> None:
                self.waiter = asyncio.get_running_loop().create_future()
                await self.waiter  # The unit travels with the wake-up: a fault.

            def put(self) -> None:
                if self.waiter is not None and not self.waiter.done():
                    self.waiter.set_result(None)
                else:
                    self.left += 1

        line = Line()

        def make():
            nonlocal line
            line = Line()
            asyncio.get_running_loop().call_later(1, line.put)
            return line.take()

        async def check(run: Swept[None]) -> None:
            await anyio.sleep(2)
            assert line.left == (1 if run.cancelled else 0)

        assert await cancel_sweep(make, check, when=("parked",)) == 1
        with pytest.raises(AssertionError) as caught:
            await cancel_sweep(make, check)
        assert "checkpoint 1 (woken)" in caught.value.__notes__[-1]

    run(main, backend="asyncio")


def test_answer_is_handed_over_on_trio():
    """On trio a woken task gets what it was woken for; the cancellation arrives at its next checkpoint."""

    async def main() -> None:
        answered: list[str] = []

        async def swept() -> None:
            await event.wait()
            answered.append("answer")
            await anyio.sleep(1)
            answered.append("slept")

        async def answer(event: trio.Event) -> None:
            await anyio.sleep(1)
            event.set()

        event = trio.Event()

        def make():
            nonlocal event
            event = trio.Event()
            answered.clear()
            nursery.start_soon(answer, event)
            return swept()

        ends: list[tuple[int | None, When | None, bool, list[str]]] = []
        async with trio.open_nursery() as nursery:
            await cancel_sweep(make, lambda run: ends.append((run.checkpoint, run.when, run.cancelled, list(answered))))
        assert ends == [
            (1, "parked", True, []),
            (1, "woken", True, ["answer"]),
            (2, "parked", True, ["answer"]),
            (2, "woken", True, ["answer"]),
            (None, None, False, ["answer", "slept"]),
        ]

    run(main, backend="trio")


def test_swallowing_and_shielding_coroutines_end(backend: Backend):
    """A coroutine that finishes in spite of its cancellation is reported as not cancelled, with its value."""

    async def main() -> None:
        seen: list[tuple[int | None, bool, str | None]] = []

        async def swept() -> str:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(1)
            return "finished"

        await cancel_sweep(swept, lambda run: seen.append((run.checkpoint, run.cancelled, run.value)), when=("parked",))
        assert seen == [(1, False, "finished"), (None, False, "finished")]

        async def swallows() -> str:
            try:
                await anyio.sleep(1)
            except anyio.get_cancelled_exc_class():
                return "swallowed"
            return "slept"

        values: list[tuple[bool, str | None]] = []
        await cancel_sweep(swallows, lambda run: values.append((run.cancelled, run.value)))
        assert values == [(False, "swallowed"), (False, "swallowed"), (False, "slept")]
        task = asyncio.current_task() if backend == "asyncio" else None
        assert task is None or task.cancelling() == 0

    run(main, backend=backend)


def test_endless_coroutine_is_bounded(backend: Backend):
    """A run with more suspensions than allowed is an error that says so."""

    async def main() -> None:
        async def endless() -> None:
            while True:
                await anyio.lowlevel.checkpoint()

        async def deaf() -> None:
            while True:
                try:
                    await anyio.sleep(1)
                except anyio.get_cancelled_exc_class():
                    pass

        with pytest.raises(RuntimeError, match="not ended after 21 checkpoints") as caught:
            await cancel_sweep(deaf, max_checkpoints=20)
        assert "cancelled at checkpoint 1 (parked)" in caught.value.__notes__[-1]
        with pytest.raises(RuntimeError, match="not ended after 20 checkpoints") as caught:
            await cancel_sweep(endless, max_checkpoints=20)
        assert "without cancellation" in caught.value.__notes__[-1]

    run(main, backend=backend)


def test_errors_leave_the_sweep_unless_expected(backend: Backend):
    """An error of the coroutine's own ends the sweep with a note; one that the test expects is handed to the check."""

    async def main() -> None:
        async def swept() -> None:
            try:
                await anyio.sleep(1)
            finally:
                raise OSError("broken")

        with pytest.raises(OSError, match="broken") as caught:
            await cancel_sweep(swept)
        assert "cancelled at checkpoint 1 (parked)" in caught.value.__notes__[-1]
        errors: list[str] = []
        await cancel_sweep(swept, lambda run: errors.append(str(run.error)), expected=(OSError,))
        assert errors == ["broken"] * 3

    run(main, backend=backend)


def test_outer_cancellation_ends_the_sweep(backend: Backend):
    """The sweep itself can be cancelled, in the middle of a run."""

    async def main() -> None:
        async def swept() -> None:
            await anyio.sleep(10)

        with anyio.move_on_after(5) as scope:
            await cancel_sweep(swept, when=("woken",))
        assert scope.cancelled_caught
        assert anyio.current_time() == 5

    run(main, backend=backend)


def test_coroutine_without_checkpoints(backend: Backend):
    """A coroutine that never suspends is run once, checked once, and counted as zero."""

    async def main() -> None:
        checked: list[int | None] = []

        async def swept() -> int:
            return 7

        assert await cancel_sweep(swept, lambda run: checked.append(run.value)) == 0
        assert checked == [7]
        with pytest.raises(ValueError, match="when"):
            await cancel_sweep(swept, when=())

    run(main, backend=backend)
