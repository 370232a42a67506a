"""Run a mesh for one test: in virtual time, held to its dead letters, and left empty.

`running` is for the code under test's own mesh, which is often made once for all tests: whatever is configured for the test is
taken back at its end, and what is left in mailboxes and timers is thrown away, so that the next one finds nothing.
"""

import contextlib
from collections.abc import AsyncGenerator, Generator, Iterable, Mapping, Sequence
from typing import Any, Literal, TypedDict, Unpack

from flowmesh._core.commits import Purge
from flowmesh._runtime.cell import Cell
from flowmesh._runtime.middleware import Middleware
from flowmesh.mesh import Mesh
from flowmesh.message import Message
from flowmesh.ports import Observer
from flowmesh.testing.history import History, Lane, Orders
from flowmesh.testing.letters import Dead, check_letters, list_letters
from flowmesh.testing.probe import probes_of
from flowmesh.testing.virtual import VirtualClock, advance, settled, virtual_time

__all__ = ["Running", "running"]

_ALL = 1_000_000


class Configured(TypedDict, total=False):
    """What may be configured for the test alone, as `mesh.configure` takes it; observers come beside the mesh's own."""

    middleware: Sequence[Middleware]
    observers: Sequence[Observer]
    grace: float
    provide: Mapping[Any, Any]


class Running:
    """A mesh that runs in virtual time. `mesh`: it. `clock`: its clock, whose wall time can be shifted."""

    def __init__(self, mesh: Mesh, clock: VirtualClock) -> None:
        self.mesh = mesh
        self.clock = clock

    async def advance(self, seconds: float) -> None:
        """Move time forward, and let everything happen that is due on the way: `flowmesh.testing.advance`.

        Cancellation: leaves time wherever it has come to.
        """
        await advance(seconds)

    async def settled(self) -> None:
        """Return once every other task is blocked: `flowmesh.testing.settled`.

        Cancellation: leaves nothing behind.
        """
        await settled()

    async def idle(self) -> None:
        """Return once nothing is under way in the mesh: `mesh.idle`.

        Cancellation: leaves nothing behind.
        """
        await self.mesh.idle()


@contextlib.asynccontextmanager
async def running(
    mesh: Mesh,
    *,
    dead_letters: Literal["any"] | Sequence[Dead] = (),
    history: History | None = None,
    leftovers: Literal["discard", "keep"] = "discard",
    wall: float | None = None,
    **configured: Unpack[Configured],
) -> AsyncGenerator[Running]:
    """Run a mesh in virtual time for the length of the block.

        async def test_reminder():
            async with running(mesh) as time:
                await remind.tell("ada", delay=30 * 86_400)
                await time.advance(30 * 86_400)
                assert reminded == ["ada"]

    The event loop must have virtual time: use the fixture `running_mesh`, `flowmesh.testing.run(test)`, or a `virtual_backend`.
    Leaving drains the mesh, and then looks at what it left. A test that fails inside the block is told which dead
    letters there are, in a note to its error; they are often the reason.

    Args:
        mesh: what to run.
        dead_letters: those that may be left in `mesh.dead_letters`, and must be, one for each entry; "any" does not look.
        history: records what becomes of every copy, and is checked at the end.
        leftovers: "discard" throws away at the end what is left in mailboxes, timers and dead letters; what is in a store
            stays there, so give each test its own.
        wall: what the wall clock reads at the beginning, in seconds since the epoch; default as for VirtualClock.
        **configured: middleware, observers, grace, provide: for this run alone.

    Yields:
        the running mesh, with what moves its time.

    Raises:
        RuntimeError: the event loop runs in real time.
        DeadLettersError: other dead letters are left than expected.
        HistoryError: the history has findings.
    """
    virtual_time("running()")
    for probe in probes_of(mesh):
        probe.clear()
    with _configured(mesh, history, wall, configured) as clock:
        before = set(map(_identity, mesh.dead_letters.list(limit=_ALL)))
        try:
            try:
                async with mesh:
                    if history is not None:
                        history.judge_by(lambda: _orders(mesh))
                    yield Running(mesh, clock)
            except BaseException as error:
                if letters := _letters(mesh, before):
                    error.add_note(f"when it failed, {len(letters)} dead letters had been left:{list_letters(letters)}")
                raise
            if dead_letters != "any":
                check_letters(_letters(mesh, before), dead_letters)
            if history is not None:
                _check_history(mesh, history)
        finally:
            if leftovers == "discard":
                _discard(mesh)


@contextlib.contextmanager
def _configured(mesh: Mesh, history: History | None, wall: float | None, configured: Configured) -> Generator[VirtualClock]:
    """Configure the mesh for one run, and then as it was."""
    engine = mesh._engine  # pyright: ignore[reportPrivateUsage] - the kit looks inside, so that users need not
    own, grace, replaced = engine.ground.clock, engine.grace, dict(engine.providing.replaced)
    middleware, observers = engine.middleware, engine.observers
    clock = own if isinstance(own, VirtualClock) and wall is None else VirtualClock(wall=wall)
    recording = () if history is None else (history,)
    for_this_run: Configured = {**configured, "observers": (*observers, *configured.get("observers", ()), *recording)}
    mesh.configure(clock=clock, **for_this_run)
    try:
        yield clock
    finally:
        if not engine.is_running:
            mesh.configure(clock=own, middleware=middleware, observers=observers, grace=grace)
            engine.providing.replaced = replaced


def _letters(mesh: Mesh, before: set[tuple[str, int]]) -> list[Message]:
    return [letter for letter in mesh.dead_letters.list(limit=_ALL) if _identity(letter) not in before]


def _identity(letter: Message) -> tuple[str, int]:
    return letter.id, sum(death.count for death in letter.deaths)  # A letter that was replayed and died again is another one.


def _check_history(mesh: Mesh, history: History) -> None:
    engine = mesh._engine  # pyright: ignore[reportPrivateUsage] - see above
    orders = _orders(mesh)
    history.judge_by(lambda: orders)  # They stay known, whatever becomes of the mesh.
    boxes = [*engine.ground.router.mailboxes.values(), engine.ground.ledger.dead_letters]
    history.check({box.name: {message.id for message in box.peek(_ALL)} for box in boxes})


def _orders(mesh: Mesh) -> Orders:
    engine = mesh._engine  # pyright: ignore[reportPrivateUsage] - see above
    boxes = [*engine.ground.router.mailboxes.values(), engine.ground.ledger.dead_letters]
    return Orders(_lanes(engine.residents.cells.values()), frozenset(box.name for box in boxes if box.options.priorities))


def _lanes(cells: Iterable[Cell]) -> dict[str, Lane]:
    """Return how the actors put the copies of their mailboxes into lanes; actors that share one may each do it differently."""
    lanes: dict[str, Lane] = {}
    for cell in cells:
        values = _values(cell)
        if values:
            lanes[cell.box.name] = _lane(cell, values) if cell.box.consumers == 1 else _unordered
    return lanes


def _values(cell: Cell) -> list[Lane]:
    """Return by what an actor keeps copies apart: its lanes, its batches or bursts, its gates."""
    gathering = None if cell.gathering is None else cell.gathering.by
    gates = () if cell.gates is None else cell.gates.policies
    return [by for by in (cell.by, gathering, *(gate.by for gate in gates)) if by is not None]


def _lane(cell: Cell, values: Sequence[Lane]) -> Lane:
    accepts = cell.handler.accepts

    def lane(body: Any) -> object:
        try:
            body = body if isinstance(body, accepts) else cell.handler.convert(body)
            return tuple(by(body) for by in values)
        except Exception:  # noqa: BLE001 - the mesh has told: it is malformed, and was never handed out
            return _unordered(body)

    return lane


def _unordered(body: object) -> object:
    del body
    return object()


def _discard(mesh: Mesh) -> None:
    """Throw away what a stopped mesh still holds."""
    engine = mesh._engine  # pyright: ignore[reportPrivateUsage] - see above
    ground = engine.ground
    if engine.is_running:
        return  # Somebody else's: it could not be entered.
    for timer in list(ground.ledger.timers):
        if isinstance(timer.action, Message):
            ground.ledger.timers.cancel(timer)
    for box in (*ground.router.mailboxes.values(), ground.ledger.dead_letters):
        ground.ledger.commit(Purge(box), now=ground.moment()[0])
        box.refresh()
    for schedule in engine.residents.schedules.values():
        schedule.forget()  # The clock of the next test begins where this one's did.
