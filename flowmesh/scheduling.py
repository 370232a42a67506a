"""What can be declared to come again and again, in a mesh or a part: `every` and `cron`, as calls and as decorators.

What is said about a schedule is checked (see plans) before anything is declared.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, Unpack, overload

from flowmesh._core.schedules import Plan
from flowmesh._runtime.actor import Actor
from flowmesh._runtime.composing import check_key
from flowmesh._runtime.declarations import ScheduleDeclaration
from flowmesh._runtime.exchange import Exchange
from flowmesh._runtime.mailbox import Mailbox
from flowmesh._runtime.scheduling import Schedule
from flowmesh._runtime.signature import locals_of_caller
from flowmesh.declaring import Declaring
from flowmesh.plans import CronOptions, EveryOptions, PeriodicActor, make_schedule, plan_cron, plan_every

__all__ = ["Scheduling"]

Body = TypeVar("Body")


class Scheduling(Declaring):
    """Whatever things can be declared in, schedules included."""

    @overload
    def every(self, seconds: float, target: Actor[None, Any], **options: Unpack[EveryOptions]) -> Schedule: ...
    @overload
    def every(self, seconds: float, target: Actor[Body, Any], *, body: Body, **options: Unpack[EveryOptions]) -> Schedule: ...
    @overload
    def every(
        self,
        seconds: float,
        target: Exchange | Mailbox,
        *,
        body: Any = None,
        key: str = "",
        **options: Unpack[EveryOptions],
    ) -> Schedule: ...
    @overload
    def every(self, seconds: float, **options: Unpack[EveryOptions]) -> PeriodicActor: ...
    def every(
        self,
        seconds: float,
        target: Actor[Any, Any] | Exchange | Mailbox | None = None,
        *,
        body: Any = None,
        key: str = "",
        **options: Unpack[EveryOptions],
    ) -> Any:
        """Publish a message every so many seconds, while the mesh runs; without a target, decorate a handler that takes none.

        A schedule that is declared once more, with equal options, target, body and key, is the same one; so this gives the
        Schedule of a decorated handler: `mesh.every(60, refresh)`.

        Due times are whole numbers of intervals after the start of the mesh, so they do not drift, and are measured on the
        monotonic clock, so that nobody who sets the wall clock moves them; the first is one interval after the start. With
        `start=` they are counted from that moment, on the wall clock, and it is the first, also if the mesh starts just then.

        Args:
            seconds: the interval, more than zero.
            target: an actor, a mailbox, or an exchange (with `key`).
            body: the message's body.
            key: the routing key, for an exchange.
            **options: name, overlap, catchup, within, jitter, start, fixed_delay (see EveryOptions).

        Raises:
            ValueError: an interval that is not positive, or an option out of its range.
            TypeError: an unknown option, naming the one that was meant; a `body` or `key` that nobody would be sent.
            WrongBody: the actor does not take the body.
            InvalidBinding: the target belongs to another mesh, or is deleted.
            PreconditionFailed: a schedule of that name exists, and is declared differently.
            InvalidHandler: the decorated handler takes a message.
        """
        return self._schedule(plan_every(seconds, options), target, options.get("name"), (body, key), locals_of_caller(1))

    @overload
    def cron(self, line: str, target: Actor[None, Any], **options: Unpack[CronOptions]) -> Schedule: ...
    @overload
    def cron(self, line: str, target: Actor[Body, Any], *, body: Body, **options: Unpack[CronOptions]) -> Schedule: ...
    @overload
    def cron(
        self,
        line: str,
        target: Exchange | Mailbox,
        *,
        body: Any = None,
        key: str = "",
        **options: Unpack[CronOptions],
    ) -> Schedule: ...
    @overload
    def cron(self, line: str, **options: Unpack[CronOptions]) -> PeriodicActor: ...
    def cron(
        self,
        line: str,
        target: Actor[Any, Any] | Exchange | Mailbox | None = None,
        *,
        body: Any = None,
        key: str = "",
        **options: Unpack[CronOptions],
    ) -> Any:
        """Publish a message at the times that a cron line names; without a target, decorate a handler that takes none.

            mesh.cron("0 9 * * mon-fri", report, tz="Europe/Berlin")

        The five fields are minute, hour, day of month, month and day of week, as Debian's cron reads them, names and `@daily`
        included; where a zone changes its clocks, a time of the day that is skipped fires once, at the end of the gap, and one
        that comes twice fires once, while lines whose minute or hour begins with `*` go by elapsed time.

        Args:
            line: the cron line.
            target: an actor, a mailbox, or an exchange (with `key`).
            body: the message's body.
            key: the routing key, for an exchange.
            **options: tz, name, overlap, catchup, within, jitter, start (see CronOptions).

        Raises:
            ValueError: a line that cannot be read or never comes, an unknown zone, or an option out of its range.
            TypeError, WrongBody, InvalidBinding, PreconditionFailed, InvalidHandler: as `every`.
        """
        return self._schedule(plan_cron(line, options), target, options.get("name"), (body, key), locals_of_caller(1))

    def _schedule(
        self,
        plan: Plan,
        target: Actor[Any, Any] | Exchange | Mailbox | None,
        name: str | None,
        sent: tuple[Any, str],
        caller: Mapping[str, Any],
    ) -> Any:
        """Declare a schedule that sends this body with this key; without a target, return what decorates its actor."""
        body, key = sent
        if target is None:
            for option, is_given in (("body", body is not None), ("key", key != "")):
                if is_given:
                    raise TypeError(
                        f"{option}= without a target: what this decorates takes no message; declare an actor, and give it as "
                        f"the target: mesh.every(seconds, actor, body=...)"
                    )

            def declare(function: Callable[..., Any]) -> Actor[None, Any]:
                actor = self._declare_actor(function, {}, caller, schedule=name or "")
                self._schedule(plan, actor, name, (None, ""), caller)
                return actor

            return declare
        if key != "" and isinstance(target, Actor | Mailbox):
            raise TypeError(f"key= is for an exchange: {target!r} is sent to directly; leave it out, or give an exchange")
        schedule = make_schedule(self._engine, plan, target, name=name, body=body, key=key)
        if schedule.name in self._engine.residents.schedules:
            return schedule
        self._check_reference(target, f"schedule {schedule.name!r} cannot fire at {target!r}")
        declaration = ScheduleDeclaration(schedule, target, check_key(key))
        declaration.place(self._engine)
        self._keep(declaration)
        return schedule
