"""The drain: what goes on, what stops, how long it may take, and what it says about what is left."""

import logging
import os
import subprocess
import sys
import textwrap
import threading

import anyio
import anyio.lowlevel
import pytest

from flowmesh import Delivery, Mesh
from flowmesh._runtime import drain
from flowmesh._runtime.blocking import Blocker
from flowmesh._runtime.context import Context
from flowmesh._runtime.drain import EXIT_CLEAN, EXIT_HANDED_BACK, EXIT_HARD, DrainReport, HardExit
from flowmesh.errors import MeshStopped, Reject
from flowmesh.policies import MailboxOptions, Retry
from flowmesh.testing import BACKENDS, settled
from flowmesh.testing.virtual import Backend

pytestmark = pytest.mark.anyio


# What goes on and what stops


async def test_sends_of_turns_and_their_outputs_go_on():
    """While it drains, handlers still publish, tell and ask, and what they send is handled as well."""
    mesh, seen = Mesh("shop"), list[str]()

    @mesh.actor
    async def last(text: str) -> str:
        seen.append(text)
        return text.upper()

    @mesh.actor
    async def first(number: int, ctx: Context) -> None:
        await anyio.sleep(1)
        ctx.tell(last, "with the ack")
        await last.tell("at once")
        seen.append(await last.ask("asked"))

    async with mesh:
        await first.tell(1)
        await settled()
        mesh.stop()
        with pytest.raises(MeshStopped):
            await last.tell("from outside")
    assert seen == ["at once", "asked", "ASKED", "with the ack"]
    assert mesh.report is not None
    assert mesh.report.exit_code == EXIT_CLEAN


async def test_sources_and_schedules_stop_first():
    """The drain cancels sources and stops schedules before it waits for anything."""
    mesh, log = Mesh("shop"), list[str]()

    @mesh.source
    async def poll(ctx: object) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            log.append("source cancelled")

    @mesh.every(1)
    async def tick() -> None:
        log.append("tick")

    @mesh.actor
    async def slow(number: int) -> None:
        await anyio.sleep(20)
        log.append("done")

    async with mesh:
        await slow.tell(1)
        await anyio.sleep(1.5)
    assert log == ["tick", "source cancelled", "done"]


async def test_a_source_that_had_not_begun_does_not_run():
    """A mesh that is stopped before its sources got a turn does not start them while it drains."""
    mesh, runs = Mesh("shop"), list[str]()

    @mesh.actor
    async def slow(number: int) -> None:
        await anyio.sleep(1)

    @mesh.source
    async def poll(ctx: object) -> None:
        runs.append("started")
        await anyio.sleep_forever()

    async with mesh:
        await slow.tell(1)
        mesh.stop()
    assert runs == []


async def test_retries_that_are_due_within_grace_are_waited_for():
    """A retry inside grace belongs to the drain; one beyond it does not hold the drain up, and lies ready."""
    for delay, outcome in ((5.0, "acked"), (50.0, "ready")):
        mesh = Mesh("shop", grace=10)

        @mesh.actor(retry=Retry(2, initial=delay, maximum=delay, jitter="none"))
        async def work(number: int, ctx: Context) -> None:
            if ctx.attempt == 1:
                raise OSError("not yet")

        began = anyio.current_time()
        async with mesh:
            await work.tell(1)
            await settled()
        numbers = work.mailbox.statistics()
        assert numbers.delayed == 0
        assert getattr(numbers, outcome) == 1
        assert anyio.current_time() - began == pytest.approx(5 if outcome == "acked" else 0, abs=0.01)
        assert mesh.report is not None
        assert mesh.report.exit_code == (EXIT_CLEAN if outcome == "acked" else EXIT_HANDED_BACK)


@pytest.mark.parametrize("beyond", [1e-7, 3e-7, 5e-7, 9e-7, 1.1e-6])
async def test_a_grace_that_ends_within_the_rounding_of_the_wheel(beyond: float):
    """The wheel may fire a timer up to a thousandth of a tick early: the drain is over then, and does not wait for ever."""
    mesh = Mesh("shop", grace=2.0 + beyond)

    @mesh.actor
    async def hang(number: int) -> None:
        await anyio.sleep_forever()

    began = anyio.current_time()
    async with mesh:
        await hang.tell(1)
        await settled()
    assert anyio.current_time() - began == pytest.approx(2.0, abs=0.01)
    assert hang.mailbox.statistics().ready == 1


async def test_deferred_messages_wait_for_the_next_run():
    """What falls due while the mesh drains is kept, counted in the report, and delivered when the mesh runs again."""
    mesh, seen = Mesh("shop"), list[tuple[float, int]]()

    @mesh.actor
    async def slow(number: int) -> None:
        await anyio.sleep(10)

    @mesh.actor
    async def late(number: int) -> None:
        seen.append((anyio.current_time(), number))

    async with mesh:
        await slow.tell(1)
        await late.tell(5, delay=5)
        await late.tell(20, delay=20)
        await settled()
    assert seen == []
    assert mesh.report is not None
    assert (mesh.report.deferred, mesh.report.exit_code) == (2, EXIT_CLEAN)
    assert mesh.statistics().deferred == 2
    async with mesh:
        await anyio.sleep(15)
    assert [number for _, number in seen] == [5, 20]
    assert seen[0][0] == pytest.approx(10, abs=0.01)
    assert seen[1][0] == pytest.approx(20, abs=0.01)


# Grace


async def test_what_has_not_ended_after_grace_is_cancelled_and_goes_back():
    """After grace the running handlers are cancelled; their messages lie ready at their places, uncounted."""
    mesh, attempts = Mesh("shop", grace=5), list[tuple[int, int]]()

    @mesh.actor(concurrency=2, retry=Retry(2))
    async def work(number: int, ctx: Context) -> None:
        attempts.append((number, ctx.attempt))
        await anyio.sleep(100)

    async with mesh:
        for number in range(4):
            await work.tell(number)
        await settled()
    assert anyio.current_time() == pytest.approx(5, abs=0.01)
    assert attempts == [(0, 1), (1, 1)]
    assert [message.body for message in work.mailbox.peek()] == [0, 1, 2, 3]
    report = mesh.report
    assert report is not None
    assert (report.handed_back, report.unhandled, report.exit_code) == (2, {"work": 4}, EXIT_HANDED_BACK)
    assert report.seconds == pytest.approx(5, abs=0.01)
    attempts.clear()
    mesh_again_attempts = attempts
    async with mesh:
        await settled()
    assert mesh_again_attempts == [(0, 1), (1, 1)]  # handed back by a drain: counts for nothing


async def test_a_paused_actors_messages_are_reported_as_unhandled():
    """The drain does not wait for a paused actor; what it would have handled is work that was left: 75."""
    mesh = Mesh("shop")

    @mesh.actor
    async def work(number: int) -> None:
        raise AssertionError("paused")

    async with mesh:
        work.pause()
        await work.tell(1)
    assert anyio.current_time() < 1
    assert mesh.report is not None
    assert (mesh.report.unhandled, mesh.report.exit_code) == ({"work": 1}, EXIT_HANDED_BACK)


async def test_unconsumed_mailboxes_do_not_make_the_exit_unclean():
    """Copies in a mailbox that nothing is fed from are told, but nobody expected them to be handled."""
    mesh = Mesh("shop")
    mesh.mailbox("archive")
    async with mesh:
        await mesh.exchange("").publish(1, "archive")
    assert mesh.report is not None
    assert (mesh.report.unconsumed, mesh.report.unhandled, mesh.report.exit_code) == ({"archive": 1}, {}, EXIT_CLEAN)


# The report


def _report(**changes: object) -> DrainReport:
    numbers: dict[str, object] = {
        "handed_back": 0,
        "unhandled": {},
        "unconsumed": {},
        "in_hand": 0,
        "deferred": 0,
        "dead_letters": 0,
        "seconds": 0.25,
    }
    return DrainReport(**{**numbers, **changes})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "changes, text, code",
    [
        ({}, "drained in 0.25 s; nothing is left", 0),
        ({"deferred": 2}, "drained in 0.25 s; left in memory: 2 deferred", 0),
        ({"unconsumed": {"box": 3}}, "drained in 0.25 s; left in memory: 3 ready in 'box'", 0),
        ({"dead_letters": 1}, "drained in 0.25 s; left in memory: 1 dead letter", 0),
        ({"dead_letters": 2}, "drained in 0.25 s; left in memory: 2 dead letters", 0),
        (
            {"handed_back": 1, "unhandled": {"work": 4}},
            "drained in 0.25 s; left in memory: 4 ready in 'work', 1 of them handed back by a cancelled handler",
            75,
        ),
        # Handed back, and gone since: its mailbox was deleted, or its time was over.
        ({"handed_back": 1}, "drained in 0.25 s; left in memory: 1 handed back by a cancelled handler", 75),
        ({"in_hand": 2}, "drained in 0.25 s; left in memory: 2 in the hands of consumers", 75),
        ({"unhandled": {"work": 4}}, "drained in 0.25 s; left in memory: 4 ready in 'work'", 75),
    ],
)
def test_the_text_of_a_report(changes: dict[str, object], text: str, code: int):
    """A report reads as a sentence with all its counts, and its exit code is 75 only when work was left."""
    report = _report(**changes)
    assert str(report) == text
    assert report.exit_code == code


async def test_asked_messages_are_not_handed_back():
    """An ask that a stop interrupts is no work that was left: its asker is told, and its copy has ended, withdrawn."""
    mesh, told = Mesh("shop", grace=1), list[BaseException]()

    @mesh.actor(concurrency=2)
    async def answer(number: int) -> int:
        await anyio.sleep(100)
        return number

    async def ask() -> None:
        try:
            await answer.ask(1, timeout=None)
        except MeshStopped as error:
            told.append(error)

    async with anyio.create_task_group() as group, mesh:
        group.start_soon(ask)
        await settled()
    assert len(told) == 1
    assert mesh.report is not None
    assert (mesh.report.handed_back, mesh.report.unhandled, mesh.report.exit_code) == (0, {}, EXIT_CLEAN)
    assert answer.mailbox.statistics().withdrawn == 1
    async with mesh:
        await answer.tell(1)
        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await settled()
            group.cancel_scope.cancel()
    assert mesh.report is not None
    assert (mesh.report.handed_back, mesh.report.unhandled) == (1, {"answer": 1})  # only the one that was told


async def test_deliveries_that_nobody_settled_are_reported():
    """A delivery that its consumer still holds when the mesh stops is neither done nor ready: the report says so, with 75."""
    mesh = Mesh("shop", grace=1)
    box = mesh.mailbox("box")
    async with mesh:
        await mesh.exchange("").publish(1, "box")
        delivery = await box.get()
    assert mesh.report is not None
    assert (mesh.report.in_hand, mesh.report.exit_code) == (1, EXIT_HANDED_BACK)
    assert box.statistics().leased == 1
    await delivery.ack()
    async with mesh:
        pass
    assert mesh.report is not None
    assert (mesh.report.in_hand, mesh.report.exit_code) == (0, EXIT_CLEAN)


@pytest.mark.parametrize("grace", [0.0, 1.0, 2.5, 6.0, 60.0])
async def test_the_report_adds_up(grace: float):
    """Whenever a drain ends, every copy that entered a mailbox has one place, none is leased, and the report tells the rest."""
    mesh = Mesh("shop", grace=grace)
    mesh.mailbox("archive")
    events = mesh.exchange("events", "fanout")
    events.bind(mesh.mailbox("archive"))

    @mesh.actor(bind=events.on(), concurrency=3, retry=Retry(3, initial=2.0, jitter="none"), mailbox=MailboxOptions(ttl=5.0))
    async def work(number: int, ctx: Context) -> None:
        await anyio.sleep(1)
        if number % 3 == 0:
            raise OSError("again")
        if number % 5 == 0:
            raise Reject("never")
        if number % 2 == 0:
            ctx.tell(after, number)
        await after.ask(number)

    @mesh.actor(concurrency=2)
    async def after(number: int) -> None:
        await anyio.sleep(0.5)

    async with mesh:
        for number in range(20):
            await events.publish(number)
        await events.publish(99, delay=100)
        await anyio.sleep(1.2)
    statistics, report = mesh.statistics(), mesh.report
    assert report is not None
    for box in statistics.mailboxes.values():
        ended = box.acked + box.dead + box.expired + box.dropped + box.withdrawn + box.purged
        assert box.entered == box.ready + ended
        assert (box.leased, box.delayed) == (0, 0)
    ready = {name: box.ready for name, box in statistics.mailboxes.items() if box.ready}
    assert {**report.unhandled, **report.unconsumed} == ready
    assert report.unconsumed == {"archive": 20}
    assert (report.in_hand, report.deferred, report.dead_letters) == (0, statistics.deferred, statistics.dead_letters.ready)
    assert report.deferred == 1
    assert report.handed_back <= sum(report.unhandled.values())
    assert report.exit_code == (EXIT_HANDED_BACK if report.unhandled else EXIT_CLEAN)
    assert (report.exit_code == EXIT_CLEAN) == (grace >= 6.0)


async def test_the_report_is_logged(caplog: pytest.LogCaptureFixture):
    """One line at the end: a warning when something is left that somebody waits for, otherwise for information."""
    caplog.set_level(logging.INFO, "flowmesh.shop")
    mesh = Mesh("shop", grace=0)

    @mesh.actor
    async def work(number: int) -> None:
        await anyio.sleep(number)

    async with mesh:
        pass
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "mesh 'shop' drained in 0 s; nothing is left")
    ]
    caplog.clear()
    async with mesh:
        await work.tell(10)
        await settled()
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        (
            "WARNING",
            "mesh 'shop' drained in 0 s; left in memory: 1 ready in 'work', 1 of them handed back by a cancelled handler",
        )
    ]


async def test_the_report_is_of_the_last_drain():
    """There is none before the first drain and while the mesh runs; each run has its own, with its own counts."""
    mesh = Mesh("shop", grace=0)

    @mesh.actor
    async def work(number: int) -> None:
        await anyio.sleep(10)

    assert mesh.report is None
    async with mesh:
        await work.tell(1)
        await settled()
        assert mesh.report is None
    assert mesh.report is not None
    assert mesh.report.handed_back == 1
    work.mailbox.purge()
    async with mesh:
        assert mesh.report is None
    assert mesh.report is not None
    assert mesh.report.handed_back == 0


# Handlers that do not end


async def test_a_handler_that_swallows_its_cancellation_is_acked_and_named(caplog: pytest.LogCaptureFixture):
    """A handler that returns in spite of its cancellation counts as done, and the log names it."""
    mesh = Mesh("shop", grace=1)

    @mesh.actor
    async def stubborn(number: int) -> None:
        try:
            await anyio.sleep(100)
        except anyio.get_cancelled_exc_class():
            return  # what must never be done

    async with mesh:
        await stubborn.tell(1, message_id="m1")
    assert stubborn.mailbox.statistics().acked == 1
    assert "actor 'stubborn' finished message m1 although it had been cancelled: its mesh stops" in caplog.messages


async def test_a_handler_that_does_not_end_is_named_after_a_while(caplog: pytest.LogCaptureFixture):
    """Five seconds after their cancellation the handlers that still run are named; the mesh waits for them all the same."""
    mesh = Mesh("shop", grace=1)

    @mesh.actor(concurrency=2)
    async def stubborn(number: int) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(number)

    async with mesh:
        await stubborn.tell(3, message_id="short")
        await stubborn.tell(60, message_id="long")
    assert anyio.current_time() == pytest.approx(60, abs=0.01)
    named = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert named == [
        (
            "actor 'stubborn' (message long) was cancelled 5 s ago and still runs: it swallows its cancellation, or is at "
            "work in a thread; the mesh waits for it"
        )
    ]


async def test_nobody_is_named_when_all_end_in_time(caplog: pytest.LogCaptureFixture):
    """The look after cancelled handlers costs no time when they end."""
    mesh = Mesh("shop", grace=1)

    @mesh.actor
    async def tidy(number: int) -> None:
        try:
            await anyio.sleep(100)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(2)

    async with mesh:
        await tidy.tell(1)
    assert anyio.current_time() == pytest.approx(3, abs=0.01)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def _hard_exit(*running: str, found: Blocker | None = None) -> HardExit:
    return HardExit("shop", logging.getLogger("flowmesh.shop"), lambda: list(running), lambda: found)


@pytest.mark.parametrize(
    "running, found, text",
    [
        (["actor 'a' (message 7)"], None, "actor 'a' (message 7) still runs; leaving the process with exit code 70"),
        ([], None, "something of the application still runs; leaving the process with exit code 70"),
        (
            ["actor 'a' (message 7)", "actor 'b' (message 8)"],
            Blocker("actor 'b' (message 8)", "app.py:3 in b", "  the stack", 1),
            (
                "actor 'b' (message 8) holds the event loop at app.py:3 in b, actor 'a' (message 7) still runs; "
                "leaving the process with exit code 70\n  the stack"
            ),
        ),
        (
            [],
            Blocker(None, "app.py:3 in tick", "  the stack", 1),
            (
                "something of the application holds the event loop at app.py:3 in tick; leaving the process with exit code 70"
                "\n  the stack"
            ),
        ),
    ],
)
def test_a_hard_exit_names_the_handlers(
    running: list[str],
    found: Blocker | None,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    """When the time is over it says who holds the loop, where, and who still runs, and leaves the process with 70."""
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    leaving = _hard_exit(*running, found=found)
    leaving.arm(0)
    assert leaving._timer is not None
    leaving._timer.join(30)
    assert codes == [EXIT_HARD]
    assert caplog.messages == [f"mesh 'shop' does not end: {text}"]


def test_the_earliest_limit_stands():
    """Of several limits the earliest holds; infinity is none; disarmed, there is none."""
    leaving = _hard_exit()
    leaving.arm(float("inf"))
    assert leaving._timer is None
    leaving.arm(1000)
    late = leaving._timer
    leaving.arm(2000)
    assert leaving._timer is late
    leaving.arm(500)
    early = leaving._timer
    assert early is not late
    assert late is not None
    assert early is not None
    late.join(30)  # It was cancelled, not left behind.
    assert early.is_alive()
    leaving.disarm()
    early.join(30)
    assert leaving._timer is None
    leaving.arm(2000)  # Limits from before it was disarmed are forgotten.
    assert leaving._timer is not None
    leaving.disarm()


def test_a_hard_exit_does_not_wait_for_the_log(monkeypatch: pytest.MonkeyPatch):
    """A log that nobody can write to, because the blocked handler holds it, does not keep the process from ending."""
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    monkeypatch.setattr(drain, "LAST_WORDS", 0.01)
    free = threading.Event()
    leaving = HardExit("shop", logging.getLogger("flowmesh.shop"), lambda: [str(free.wait(30))], lambda: None)
    leaving.arm(0)
    assert leaving._timer is not None
    leaving._timer.join(30)
    assert codes == [EXIT_HARD]
    assert not free.is_set()
    free.set()


@pytest.mark.parametrize("backend", BACKENDS)
def test_serve_exits_hard_when_a_handler_blocks_the_loop(backend: str):
    """A handler that blocks the event loop for ever does not keep `run` from ending: it is named with its place; 70."""
    program = f"""
        import logging, threading
        from flowmesh import Mesh
        from flowmesh._runtime import drain, engine
        engine.PATIENCE = 0.1
        logging.basicConfig(format="%(message)s")
        mesh = Mesh("shop", grace=0)

        @mesh.actor
        async def block(number: int) -> None:
            mesh.stop()
            print("blocking")
            threading.Event().wait(60)

        @mesh.source
        async def poll(ctx) -> None:
            await block.tell(1, message_id="m1")

        mesh.run(backend={backend!r})
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == EXIT_HARD, done.stderr
    assert done.stdout == "blocking\n"
    assert (
        "mesh 'shop' does not end: actor 'block' (message m1) holds the event loop at <string>:13 in block; leaving the "
        "process with exit code 70\n" in done.stderr
    )


# stop, serve, run


async def test_stop_is_idempotent_and_nothing_when_it_does_not_run():
    """`stop` may be called at any time, any number of times."""
    mesh = Mesh("shop")
    mesh.stop()
    async with mesh:
        mesh.stop()
        mesh.stop()
    mesh.stop()
    async with mesh:
        assert (await mesh.exchange("x", "fanout").publish(1)).routed == 0  # it runs: an earlier stop does not reach it


@pytest.mark.parametrize("grace, code", [(10.0, EXIT_CLEAN), (1.0, EXIT_HANDED_BACK)])
async def test_serve_runs_until_stop_and_returns_the_exit_code(grace: float, code: int):
    """`serve` runs the mesh until `stop()`, drains it, and returns 0, or 75 when work was left."""
    mesh = Mesh("shop", grace=grace)

    @mesh.actor
    async def slow(number: int) -> None:
        await anyio.sleep(5)

    @mesh.source
    async def poll(ctx: object) -> None:
        await slow.tell(1)
        await anyio.sleep(1)
        mesh.stop()

    assert await mesh.serve() == code
    assert mesh._engine.hard_exit is None


async def test_serve_raises_what_stopped_the_mesh():
    """An error of a source leaves `serve` bare."""
    mesh = Mesh("shop")

    @mesh.source
    async def poll(ctx: object) -> None:
        raise OSError("feed")

    with pytest.raises(OSError, match="feed"):
        await mesh.serve()


@pytest.mark.parametrize("backend", BACKENDS)
def test_run_serves_from_synchronous_code(backend: Backend):
    """`run` starts the loop, serves, and returns the exit code; asyncio unless told otherwise."""
    mesh, seen = Mesh("shop"), list[int]()

    @mesh.actor
    async def work(number: int) -> None:
        seen.append(number)

    @mesh.source
    async def poll(ctx: object) -> None:
        for number in range(3):
            await work.tell(number)
        await mesh.idle()
        mesh.stop()

    assert mesh.run(backend=backend) == 0
    assert seen == [0, 1, 2]


def test_exit_codes_are_those_of_sysexits():
    """0 clean, 75 (EX_TEMPFAIL) work was handed back, 70 (EX_SOFTWARE) hard."""
    assert (EXIT_CLEAN, EXIT_HANDED_BACK, EXIT_HARD) == (0, os.EX_TEMPFAIL, os.EX_SOFTWARE)
    assert drain.PATIENCE > 0


async def test_leaving_by_an_error_with_a_delivery_in_hand():
    """A delivery that is still held keeps nobody from noticing that the last handler has ended: the mesh is left."""
    mesh = Mesh("shop")
    box = mesh.mailbox("box")

    @mesh.actor
    async def slow(number: int) -> None:
        del number
        try:
            await anyio.sleep_forever()
        finally:
            for _ in range(5):
                await anyio.lowlevel.cancel_shielded_checkpoint()

    async def run() -> None:
        async with mesh:
            await mesh.exchange("").publish("x", "box")
            held.append(await box.get())
            await slow.tell(1)
            await settled()
            raise OSError("body")

    held: list[Delivery] = []
    with pytest.raises(OSError, match="body"):
        await run()
    await held[0].ack()
