"""A probe: an actor that a test holds in its hand, to see what comes, in which order and when, and to say what it answers.

What comes stands in line until the test has expected it.  `expect` looks at the next one only, so that a test which expects all
that it causes also states its order; `expect_all` leaves the order open.  Failing takes nothing out of the line.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, TypedDict, TypeVar, Unpack, overload

import anyio

from flowmesh._runtime.actor import Actor
from flowmesh._runtime.cell import Cell
from flowmesh._runtime.context import Context
from flowmesh._runtime.exchange import Binding
from flowmesh._runtime.mailbox import Mailbox
from flowmesh.declaring import Declaring
from flowmesh.policies import MailboxOptions, Retry
from flowmesh.testing.matching import described, matches
from flowmesh.testing.received import Received
from flowmesh.testing.virtual import advance, has_virtual_time, settled

__all__ = ["Probe", "probes_of"]

Body = TypeVar("Body")
_SHOWN = 10


class ProbeOptions(TypedDict, total=False):
    """What may be said about a probe's actor, as about any other."""

    bind: Binding | list[Binding] | tuple[Binding, ...] | None
    mailbox: MailboxOptions | Mailbox | None
    concurrency: int
    retry: Retry | None
    timeout: float | None
    by: Callable[[Any], Any] | None


class Probe:
    """An actor whose messages the test expects one by one, and answers as it likes.

        receipts = Probe(mesh, "receipts", bind=orders.on("order.*.paid"))

        async with running(mesh):
            await orders.publish(Paid(1), "order.eu.paid")
            assert (await receipts.expect(Paid)).body.id == 1
            await receipts.expect_none(within=60.0)

    It is declared like any actor, where the mesh is made or in the test. Declared again in the same mesh under the same name,
    it takes the place of the probe before it, with that one's options. It takes bodies of every type, and answers every message
    at once: with None, unless `answers` or `hold` say otherwise.

    Args:
        mesh: where it is declared; a Part will do as well.
        name: the actor's.
        **options: bind, mailbox, concurrency, retry, timeout, by: as for `mesh.actor`.

    Attributes:
        actor: the actor, to tell, ask and bind.
        received: all that has come, expected or not.
    """

    def __init__(self, mesh: Declaring, name: str, **options: Unpack[ProbeOptions]) -> None:
        self.name = name
        self.received: list[Received[Any]] = []
        self._unexpected: deque[Received[Any]] = deque()
        self._answers: deque[Any] = deque()
        self._answer: Any = None
        self._is_holding = False
        self._in_hand: list[Received[Any]] = []
        self._news: set[anyio.Event] = set()
        self.actor = _declare(mesh, self, name, options)

    def __repr__(self) -> str:
        return f"<Probe {self.name!r}, {len(self._unexpected)} of {len(self.received)} messages not expected yet>"

    # What it answers.

    def answers(self, value: object, *, times: int | None = None) -> None:
        """Answer with this from now on, or the next `times` messages, before what was said earlier for all.

        A value is returned, an exception or a verdict (Reject, RetryAfter) raised; a function, or a class of exceptions, is
        called with the body, and may give any of these.
        """
        if times is None:
            self._answer = value
        else:
            self._answers.extend([value] * times)

    def hold(self) -> None:
        """Keep what comes from now on in hand, until `received.reply(...)` or `release()`."""
        self._is_holding = True

    def release(self) -> None:
        """Hold no longer, and let all that is in hand go, answered as `answers` says."""
        self._is_holding = False
        for received in self._in_hand:
            if not received.is_answered:
                received.reply(self._next_answer())

    def clear(self) -> None:
        """Forget what has come."""
        self.received.clear()
        self._unexpected.clear()

    # What it expects.

    @overload
    async def expect(self, expected: type[Body], *, within: float = 1.0) -> Received[Body]: ...
    @overload
    async def expect(self, expected: Callable[[Any], object], *, within: float = 1.0) -> Received[Any]: ...
    @overload
    async def expect(self, expected: Body, *, within: float = 1.0) -> Received[Body]: ...
    async def expect(self, expected: Any, *, within: float = 1.0) -> Received[Any]:
        """Wait for the next message that has not been expected yet, and take it if it is what was expected.

        Args:
            expected: the body's type, a condition (a function of the body), or the very body.
            within: seconds to wait for it.

        Raises:
            AssertionError: another message came, or none; the text shows what did.

        Cancellation: takes nothing.
        """
        await self._until(lambda: bool(self._unexpected), within)
        if not self._unexpected:
            raise AssertionError(
                f"probe {self.name!r} expected {described(expected)} within {within:g} s: no message came" + self._history()
            )
        if not matches(expected, self._unexpected[0].body):
            raise AssertionError(
                f"probe {self.name!r} expected {described(expected)}, and next came {self._unexpected[0]!r}" + self._history()
            )
        return self._unexpected.popleft()

    async def expect_all(self, *expected: Any, within: float = 1.0) -> list[Received[Any]]:
        """Wait for a message for each of these, in any order, and take them.

        Args:
            *expected: types, conditions or bodies, as for `expect`; each takes the first message that it fits.
            within: seconds to wait for the last of them.

        Returns:
            the messages, in the order of what was expected.

        Raises:
            AssertionError: one did not come; the text shows what did.

        Cancellation: takes nothing.
        """
        await self._until(lambda: None not in self._assigned(expected), within)
        found = self._assigned(expected)
        taken = [received for received in found if received is not None]
        if len(taken) < len(found):
            missing = ", ".join(described(one) for one, received in zip(expected, found, strict=True) if received is None)
            raise AssertionError(
                f"probe {self.name!r} expected {len(expected)} messages within {within:g} s: "
                f"none came for {missing}" + self._history()
            )
        for received in taken:
            self._unexpected.remove(received)
        return taken

    async def expect_none(self, *, within: float = 1.0) -> None:
        """Let the time pass, and see that no message has come that was not expected.

        Raises:
            AssertionError: one came; the text shows it.

        Cancellation: leaves nothing behind.
        """
        if has_virtual_time():
            await advance(within)
        else:
            await self._until(lambda: bool(self._unexpected), within)
        if self._unexpected:
            raise AssertionError(
                f"probe {self.name!r} expected no message within {within:g} s, and {self._unexpected[0]!r} came"
                + self._history()
            )

    # Inside.

    async def _take(self, body: object, ctx: Context) -> Any:
        """Do what the actor's handler does."""
        received = Received(ctx.message, body, ctx.attempt)
        self.received.append(received)
        self._unexpected.append(received)
        if not self._is_holding:
            received.reply(self._next_answer())
        for news in self._news:
            news.set()
        self._in_hand.append(received)
        try:
            answer = await received.answer()
        finally:
            self._in_hand.remove(received)
        if callable(answer):
            answer = answer(body)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _next_answer(self) -> Any:
        return self._answers.popleft() if self._answers else self._answer

    def _assigned(self, expected: tuple[Any, ...]) -> list[Received[Any] | None]:
        free = list(self._unexpected)
        found: list[Received[Any] | None] = []
        for one in expected:
            received = next((received for received in free if matches(one, received.body)), None)
            if received is not None:
                free.remove(received)
            found.append(received)
        return found

    async def _until(self, is_there: Callable[[], bool], within: float) -> None:
        if not within >= 0:
            raise ValueError(f"within must be zero or more seconds, not {within!r}")
        if has_virtual_time():
            await settled()
        with anyio.move_on_after(within):
            while not is_there():
                news = anyio.Event()
                self._news.add(news)
                try:
                    await news.wait()
                finally:
                    self._news.discard(news)
        if has_virtual_time():
            await settled()  # What is due at the last moment has come within the time.

    def _history(self) -> str:
        if not self.received:
            return "; nothing has come at all"
        waiting = set(map(id, self._unexpected))
        lines = [
            f"\n  {'not expected yet' if id(received) in waiting else 'expected        '}  {received!r}"
            for received in self.received[-_SHOWN:]
        ]
        return f"\nwhat has come{'' if len(self.received) <= _SHOWN else f', the last {_SHOWN}'}:{''.join(lines)}"


class _Stand:
    """The handler of a probe's actor, for whichever probe is the newest."""

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self.actor: Actor[Any, Any]

    async def take(self, body: object, ctx: Context) -> Any:
        """Let the probe take it."""
        return await self.probe._take(body, ctx)  # pyright: ignore[reportPrivateUsage] - its other half


def probes_of(mesh: Declaring) -> list[Probe]:
    """Return the probes that are declared in a mesh."""
    engine = mesh._engine  # pyright: ignore[reportPrivateUsage] - the kit looks inside, so that users need not
    return [stand.probe for cell in engine.residents.cells.values() if (stand := _stand_of(cell)) is not None]


def _stand_of(cell: Cell) -> _Stand | None:
    stand = getattr(getattr(cell.handler, "function", None), "__self__", None)
    return stand if isinstance(stand, _Stand) else None


def _declare(mesh: Declaring, probe: Probe, name: str, options: ProbeOptions) -> Actor[Any, Any]:
    """Declare the probe's actor, or take over that of the probe before it."""
    engine = mesh._engine  # pyright: ignore[reportPrivateUsage] - the kit looks inside, so that users need not
    cell = engine.residents.cells.get(name)
    stand = None if cell is None else _stand_of(cell)
    if stand is None:
        stand = _Stand(probe)
        stand.actor = mesh.actor(stand.take, name=name, **options)
        return stand.actor
    stand.probe = probe
    bind = options.get("bind") or ()
    for binding in (bind,) if isinstance(bind, Binding) else bind:
        binding.exchange.bind(stand.actor, binding.key, arguments=binding.arguments or None)
    return stand.actor
