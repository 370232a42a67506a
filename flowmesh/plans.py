"""What is said about a schedule, checked where it is said: options, zones, cron lines, and the handle that comes of them."""

import datetime
import zoneinfo
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Concatenate, Final, ParamSpec, Protocol, TypedDict, TypeVar, get_args, overload

from msgspec.structs import replace

from flowmesh._core.cron import CronLine
from flowmesh._core.schedules import Catchup, Interval, Overlap, Plan
from flowmesh._runtime.actor import Actor
from flowmesh._runtime.engine import Engine
from flowmesh._runtime.exchange import Exchange
from flowmesh._runtime.mailbox import Mailbox
from flowmesh._runtime.scheduling import Schedule
from flowmesh.checks import is_seconds, suggestion
from flowmesh.errors import PreconditionFailed

__all__ = [
    "CronOptions",
    "EveryOptions",
    "PeriodicActor",
    "ScheduleOptions",
    "make_schedule",
    "plan_cron",
    "plan_every",
    "second_schedule",
]

Reply = TypeVar("Reply")
Rest = ParamSpec("Rest")


class ScheduleOptions(TypedDict, total=False):
    """What may be said about any schedule.

    `name`: the target's name unless given; a message's id is `<name>@<due>`. `overlap`: what becomes of a fire whose
    predecessor is not settled yet: "skip" it (the default for an actor), "queue" it until then, "cancel" the predecessor and
    fire when that has ended, or "allow" it (the default for the others). `catchup`: when the mesh was too late for due times,
    make up for the "latest" (the default), for "all", or for "none" (later than a second is too late then). `within`: seconds
    after which a due time is not made up for any more; None: always. `jitter`: each fire comes up to so many seconds later,
    never as late as the next. `start`: when it begins, an aware datetime.
    """

    name: str | None
    overlap: Overlap | None
    catchup: Catchup
    within: float | None
    jitter: float
    start: datetime.datetime | None


class EveryOptions(ScheduleOptions, total=False):
    """What may be said to `mesh.every`: ScheduleOptions, and `fixed_delay`.

    `fixed_delay`: count the interval from the moment at which the fire before has been settled.
    """

    fixed_delay: bool


class CronOptions(ScheduleOptions, total=False):
    """What may be said to `mesh.cron`: ScheduleOptions, and `tz`.

    `tz`: the zone of its times, "UTC" unless given: a name like "Europe/Berlin", or a tzinfo.
    """

    tz: str | datetime.tzinfo


class PeriodicActor(Protocol):
    """What `mesh.every(seconds)` and `mesh.cron(line)` return: a decorator for a handler that takes no message."""

    @overload
    def __call__(self, handler: Callable[[], Awaitable[Reply]], /) -> Actor[None, Reply]: ...
    @overload
    def __call__(self, handler: Callable[Concatenate[None, Rest], Awaitable[Reply]], /) -> Actor[None, Reply]: ...
    @overload
    def __call__(self, handler: Callable[[], Reply], /) -> Actor[None, Reply]: ...
    @overload
    def __call__(self, handler: Callable[Concatenate[None, Rest], Reply], /) -> Actor[None, Reply]: ...


def plan_every(seconds: float, options: EveryOptions) -> Plan:
    """Return the plan of `mesh.every`.

    Raises:
        ValueError, TypeError: as `Declaring.every`.
    """
    if not (is_seconds(seconds) and seconds > 0):
        raise ValueError(f"seconds must be a finite number, more than zero, not {seconds!r}")
    _check_options(options, EveryOptions, "every")
    fixed_delay = options.get("fixed_delay", False)
    if fixed_delay:
        for name in ("overlap", "catchup", "within"):
            if options.get(name) is not None:
                raise ValueError(
                    f"with fixed_delay=True a fire counts from the end of the one before it, so none overlaps or is late: "
                    f"leave {name}= out"
                )
    return _plan(Interval(float(seconds)), datetime.UTC, options, fixed_delay=fixed_delay)


def plan_cron(line: str, options: CronOptions) -> Plan:
    """Return the plan of `mesh.cron`.

    Raises:
        ValueError, TypeError: as `Declaring.cron`.
    """
    if not isinstance(line, str):  # pyright: ignore[reportUnnecessaryIsInstance] - users get it wrong
        raise TypeError(f"a cron line is a text like '0 9 * * mon-fri', not {line!r}")
    _check_options(options, CronOptions, "cron")
    zone = _zone(options.get("tz", "UTC"))
    return _plan(CronLine(line, zone), zone, options)


def make_schedule(
    engine: Engine, plan: Plan, target: Actor[Any, Any] | Exchange | Mailbox, *, name: str | None, body: Any, key: str
) -> Schedule:
    """Return the handle of a schedule that fires such a body at this target: the one that there is, or one to be declared.

    Raises:
        PreconditionFailed: its name is taken by another one.
        TypeError: the target is something else.
        WrongBody: the target is an actor that does not take the body.
    """
    name = str(name or getattr(target, "name", "?"))
    found = engine.residents.schedules.get(name)
    if not isinstance(target, Actor | Exchange | Mailbox):  # pyright: ignore[reportUnnecessaryIsInstance] - users get it wrong
        raise TypeError(f"target of schedule {name!r} must be an actor, an exchange or a mailbox of this mesh, not {target!r}")
    plan = replace(plan, overlap=plan.overlap or ("skip" if isinstance(target, Actor) else "allow"))
    if found is not None:
        if not found.is_declared_as(plan, body=body, aim=(target, key)):
            raise second_schedule(engine, name)
        return found
    if isinstance(target, Actor):
        target.check_body(body)
    return Schedule(name, plan, body, (target, key))


def second_schedule(engine: Engine, name: str) -> PreconditionFailed:
    """Return the error of a name that is taken."""
    return PreconditionFailed(f"schedule {name!r} exists in {engine.ground.label}: give this one another name=")


# Checks

_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {"overlap": get_args(Overlap), "catchup": get_args(Catchup)}


def _check_options(options: Mapping[str, Any], known: type[Any], method: str) -> None:
    names = {**ScheduleOptions.__annotations__, **known.__annotations__}
    for name, value in options.items():
        if name not in names:
            raise TypeError(f"unknown option {name!r} of mesh.{method}{suggestion(name, names)}")
        if name in _CHOICES and value not in _CHOICES[name] and not (name == "overlap" and value is None):
            listed = ", ".join(repr(choice) for choice in _CHOICES[name])
            raise ValueError(f"{name} must be one of {listed}, not {value!r}")
        if name == "within" and value is not None and not (is_seconds(value) and value > 0):
            raise ValueError(f"within must be more than zero seconds, or None, not {value!r}")
        if name == "jitter" and not is_seconds(value):
            raise ValueError(f"jitter must be zero or more seconds, not {value!r}")
        if name == "start" and value is not None and (not isinstance(value, datetime.datetime) or value.tzinfo is None):
            raise ValueError(f"start must be a datetime with a time zone, as in datetime.now(UTC), not {value!r}")
        if name == "fixed_delay" and not isinstance(value, bool):
            raise ValueError(f"fixed_delay must be True or False, not {value!r}: the interval is the first argument")
    if options.get("catchup") == "none" and options.get("within") is not None:
        raise ValueError("with catchup='none' nothing is made up for: leave within= out")


def _zone(tz: object) -> datetime.tzinfo:
    if isinstance(tz, datetime.tzinfo):
        return datetime.UTC if isinstance(tz, zoneinfo.ZoneInfo) and tz.key == "UTC" else tz
    if not isinstance(tz, str):
        raise TypeError(f"tz must be the name of a zone, like 'Europe/Berlin', or a tzinfo, not {tz!r}")
    if tz == "UTC":
        return datetime.UTC
    try:
        return zoneinfo.ZoneInfo(tz)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            f"unknown time zone {tz!r}{suggestion(tz, zoneinfo.available_timezones())}: give a name of the IANA database, "
            "like 'Europe/Berlin'; pip install -U tzdata brings the newest"
        ) from None


def _plan(rule: Interval | CronLine, zone: datetime.tzinfo, options: ScheduleOptions, *, fixed_delay: bool = False) -> Plan:
    start = options.get("start")
    return Plan(
        rule=rule,
        zone=zone,
        start=None if start is None else start.timestamp(),
        overlap="skip" if fixed_delay else options.get("overlap"),
        catchup=options.get("catchup", "latest"),
        within=options.get("within"),
        jitter=float(options.get("jitter", 0.0)),
        fixed_delay=fixed_delay,
    )
