"""Metrics: observable instruments that read a mesh's statistics when somebody collects; a message pays nothing for them.

Collectors read from threads of their own, so a reading may meet a change half-way: it is then taken again, and left out if
that happens too often.  What a collection sees is of one moment: each instrument asks once, and the first asks for all.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from flowmesh._core.numbers import MailboxStatistics
from flowmesh.telemetry import names

__all__ = ["Metrics"]

ENDS: Final = ("acked", "dead", "expired", "dropped", "withdrawn", "purged")
STATES: Final = ("ready", "leased", "delayed")
FIRES: Final = ("fired", "skipped", "missed")
OPENNESS: Final = {"closed": 0.0, "half-open": 0.5, "open": 1.0}
TRIES: Final = 5


class GateNumbers(Protocol):
    """The numbers of one gate of an actor."""

    @property
    def gate(self) -> str:
        """Its kind."""
        ...

    @property
    def held(self) -> int:
        """Copies that wait for it."""
        ...

    @property
    def condition(self) -> str | None:
        """Of a breaker: closed, open or half-open."""
        ...


class ScheduleNumbers(Protocol):
    """The numbers of one schedule."""

    @property
    def fired(self) -> int:
        """Messages that it made."""
        ...

    @property
    def skipped(self) -> int:
        """Fires that it left out."""
        ...

    @property
    def missed(self) -> int:
        """Due times that nobody was there for."""
        ...


class ActorNumbers(Protocol):
    """The numbers of one actor."""

    @property
    def slots(self) -> int:
        """Turns that may run at once."""
        ...

    @property
    def restarts(self) -> int:
        """How often its instance was made anew."""
        ...

    @property
    def gates(self) -> Sequence[GateNumbers]:
        """Of each gate, in order."""
        ...

    @property
    def running(self) -> int:
        """Turns under way."""
        ...

    @property
    def failed(self) -> int:
        """Turns that ended in a dead letter or an error to the asker."""
        ...

    @property
    def retried(self) -> int:
        """Turns that ended in a retry."""
        ...


class Numbers(Protocol):
    """The numbers of one mesh at one moment."""

    @property
    def mailboxes(self) -> Mapping[str, MailboxStatistics]:
        """Of each mailbox."""
        ...

    @property
    def actors(self) -> Mapping[str, ActorNumbers]:
        """Of each actor."""
        ...

    @property
    def schedules(self) -> Mapping[str, ScheduleNumbers]:
        """Of each schedule."""
        ...

    @property
    def unroutable(self) -> Mapping[str, int]:
        """Of each exchange: messages that it routed nowhere."""
        ...

    @property
    def deferred(self) -> int:
        """Messages that wait for their time."""
        ...


class Metrics:
    """The instruments of one mesh, whose numbers `read`, a method, gives. They do not keep the mesh alive."""

    def __init__(self, meter: Meter, mesh: str, read: Callable[[], Numbers]) -> None:
        self._mesh = mesh
        self._read: Callable[[], Callable[[], Numbers] | None] = weakref.WeakMethod(read)
        self._last: Numbers | None = None
        self._asked: set[str] = set()
        up_down, counter, gauge = (
            meter.create_observable_up_down_counter,
            meter.create_observable_counter,
            meter.create_observable_gauge,
        )
        instruments: list[tuple[Callable[..., Any], str, str, str, Callable[[Numbers], Iterable[Observation]]]] = [
            (up_down, names.MESSAGES, "{message}", "Copies in a mailbox, by state", self._messages),
            (counter, names.ENTERED, "{message}", "Copies that have entered a mailbox", self._entered),
            (counter, names.ENDED, "{message}", "Copies that have ended in a mailbox, by outcome", self._ended),
            (gauge, names.OLDEST_AGE, "s", "Since when the oldest ready copy of a mailbox waits", self._oldest),
            (up_down, names.CONSUMERS, "{consumer}", "Who takes from a mailbox, by state", self._consumers),
            (up_down, names.SLOTS, "{turn}", "Turns of an actor that may run at once", self._slots),
            (up_down, names.RUNNING, "{turn}", "Turns of an actor that run", self._running),
            (counter, names.FAILURES, "{turn}", "Turns of an actor whose message failed for good", self._failures),
            (counter, names.RETRIES, "{turn}", "Turns of an actor whose message is tried again", self._retries),
            (counter, names.RESTARTS, "{restart}", "How often an actor's instance was made anew", self._restarts),
            (up_down, names.HELD, "{message}", "Copies that a gate of an actor holds back", self._held),
            (gauge, names.OPEN, "1", "Of an actor's breaker: 0 closed, 0.5 half-open, 1 open", self._open),
            (counter, names.FIRES, "{fire}", "Due times of a schedule, by outcome", self._fires),
            (counter, names.UNROUTABLE, "{message}", "Messages that an exchange routed nowhere", self._unroutable),
            (up_down, names.DEFERRED, "{message}", "Messages that wait for their time", self._deferred),
        ]
        for create, name, unit, description, observe in instruments:
            create(name, [self._callback(name, observe)], unit, description)

    def _callback(
        self, name: str, observe: Callable[[Numbers], Iterable[Observation]]
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def callback(_options: CallbackOptions) -> Iterable[Observation]:
            numbers = self._numbers_for(name)
            return () if numbers is None else observe(numbers)

        return callback

    def _numbers_for(self, name: str) -> Numbers | None:
        """Return the numbers of this collection, which has begun anew when an instrument asks a second time."""
        if self._last is None or name in self._asked:
            self._asked.clear()
            self._last = self._take()
        self._asked.add(name)
        return self._last

    def _take(self) -> Numbers | None:
        read = self._read()
        if read is None:
            return None
        for _ in range(TRIES):
            try:
                return read()
            except (RuntimeError, IndexError):  # something was declared, or a message moved, meanwhile
                continue
        return None

    def _at(self, value: float, **attributes: str) -> Observation:
        return Observation(value, {names.MESH: self._mesh, **{_KEYS[key]: text for key, text in attributes.items()}})

    def _messages(self, numbers: Numbers) -> Iterator[Observation]:
        for name, box in numbers.mailboxes.items():
            for state, value in zip(STATES, (box.ready, box.leased, box.delayed), strict=True):
                yield self._at(value, mailbox=name, state=state)

    def _entered(self, numbers: Numbers) -> Iterator[Observation]:
        for name, box in numbers.mailboxes.items():
            yield self._at(box.entered, mailbox=name)

    def _ended(self, numbers: Numbers) -> Iterator[Observation]:
        for name, box in numbers.mailboxes.items():
            values = (box.acked, box.dead, box.expired, box.dropped, box.withdrawn, box.purged)
            for outcome, value in zip(ENDS, values, strict=True):
                yield self._at(value, mailbox=name, outcome=outcome)

    def _oldest(self, numbers: Numbers) -> Iterator[Observation]:
        for name, box in numbers.mailboxes.items():
            yield self._at(box.oldest_age or 0.0, mailbox=name)

    def _consumers(self, numbers: Numbers) -> Iterator[Observation]:
        for name, box in numbers.mailboxes.items():
            yield self._at(box.consumers - box.standby, mailbox=name, state="active")
            yield self._at(box.standby, mailbox=name, state="standby")

    def _slots(self, numbers: Numbers) -> Iterator[Observation]:
        for name, actor in numbers.actors.items():
            yield self._at(actor.slots, actor=name)

    def _restarts(self, numbers: Numbers) -> Iterator[Observation]:
        for name, actor in numbers.actors.items():
            yield self._at(actor.restarts, actor=name)

    def _held(self, numbers: Numbers) -> Iterator[Observation]:
        for name, actor in numbers.actors.items():
            for label, gate in _labelled(actor.gates):
                yield self._at(gate.held, actor=name, gate=label)

    def _open(self, numbers: Numbers) -> Iterator[Observation]:
        for name, actor in numbers.actors.items():
            for label, gate in _labelled(actor.gates):
                if gate.condition is not None:
                    yield self._at(OPENNESS[gate.condition], actor=name, gate=label)

    def _fires(self, numbers: Numbers) -> Iterator[Observation]:
        for name, schedule in numbers.schedules.items():
            for outcome, value in zip(FIRES, (schedule.fired, schedule.skipped, schedule.missed), strict=True):
                yield self._at(value, schedule=name, outcome=outcome)

    def _running(self, numbers: Numbers) -> Iterator[Observation]:
        for name, actor in numbers.actors.items():
            yield self._at(actor.running, actor=name)

    def _failures(self, numbers: Numbers) -> Iterator[Observation]:
        for name, actor in numbers.actors.items():
            yield self._at(actor.failed, actor=name)

    def _retries(self, numbers: Numbers) -> Iterator[Observation]:
        for name, actor in numbers.actors.items():
            yield self._at(actor.retried, actor=name)

    def _unroutable(self, numbers: Numbers) -> Iterator[Observation]:
        for name, value in numbers.unroutable.items():
            yield self._at(value, exchange=name)

    def _deferred(self, numbers: Numbers) -> Iterator[Observation]:
        yield self._at(numbers.deferred)


def _labelled(gates: Sequence[GateNumbers]) -> Iterator[tuple[str, GateNumbers]]:
    """Yield gates with what tells them apart: their kind, and a number from the second of a kind on."""
    seen: dict[str, int] = {}
    for gate in gates:
        seen[gate.gate] = seen.get(gate.gate, 0) + 1
        yield gate.gate if seen[gate.gate] == 1 else f"{gate.gate} {seen[gate.gate]}", gate


_KEYS: Final = {
    "mailbox": names.DESTINATION,
    "state": names.STATE,
    "outcome": names.OUTCOME,
    "actor": names.ACTOR,
    "exchange": names.EXCHANGE,
    "gate": names.GATE,
    "schedule": names.SCHEDULE,
}
