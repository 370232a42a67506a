"""What virtual time has in common on both backends: how it jumps, and what is said when nothing can ever happen again."""

import threading
from collections.abc import Iterable

from msgspec import Struct

__all__ = ["EPOCH", "Jumping", "StandstillError", "describe", "patience_before_standstill"]

EPOCH = 1_704_067_200.0
"""The wall clock at the start of virtual time where none is given: Monday 2024-01-01T00:00:00Z."""

_BREATH = 0.05  # Real seconds for a callback that another thread is handing over right now.

# Names of threads that call nobody in of themselves: pooled ones, which are known otherwise when they are at work, and our own.
_POOLS = ("AnyIO worker thread", "Trio thread", "asyncio_", "flowmesh watchdog")
_LIBRARIES = ("anyio", "asyncio", "trio")


class StandstillError(RuntimeError):
    """Everything waits, and no timer, thread or I/O could end it: a deadlock of the code under test.

    In real time this would have hung.  The text names each waiting task and the line where it waits.
    """


class Jumping(Struct, frozen=True):
    """How virtual time moves.

    Attributes:
        start: what the monotonic clock reads at the beginning, in seconds.
        wall: what the wall clock reads at that moment, in seconds since the epoch.
        quiet: real seconds without any activity before time jumps to the next timer; None: it moves only by `advance`.
        patience: real seconds that time stands still, at most, for threads that are at work.
    """

    start: float = 0.0
    wall: float = EPOCH
    quiet: float | None = 0.0
    patience: float = 2.0

    def __post_init__(self) -> None:
        """Refuse settings that cannot be kept."""
        if self.quiet is not None and not self.quiet >= 0:
            raise ValueError(f"autojump must be True, False, or zero or more real seconds of quiet, not {self.quiet!r}")
        if not self.patience >= 0:
            raise ValueError(f"patience must be zero or more real seconds, not {self.patience!r}")


def patience_before_standstill(jumping: Jumping) -> float:
    """Return the real seconds to wait before despairing: threads of the application's own might still call in."""
    here = (threading.current_thread(), threading.main_thread())
    others = any(thread not in here and not thread.name.startswith(_POOLS) for thread in threading.enumerate())
    return max(_BREATH, jumping.patience if others else 0.0)


def describe(jumping: Jumping, waiting: Iterable[tuple[str, object]]) -> StandstillError:
    """Return the error for a standstill, naming each of the `waiting` tasks (name, coroutine) and where it waits."""
    if jumping.quiet is None:
        reason = "virtual time: everything waits, and time moves only by `advance()`, which nobody calls: deadlock"
    else:
        reason = "virtual time: everything waits and no timer is set: deadlock"
    lines = [f"\n  {name} waits in {where(coroutine)}" for name, coroutine in waiting]
    return StandstillError(reason + "".join(lines))


def where(coroutine: object) -> str:
    """Return the lines in which a suspended coroutine stands, innermost first, at most four, without the event loop's own."""
    places: list[str] = []
    while coroutine is not None:
        prefix = next((prefix for prefix in ("cr", "gi", "ag") if hasattr(coroutine, f"{prefix}_frame")), None)
        if prefix is None:
            break
        frame = getattr(coroutine, f"{prefix}_frame")
        if frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] not in _LIBRARIES:
            file = frame.f_code.co_filename.replace("\\", "/").rpartition("/")[2]
            places.append(f"{frame.f_code.co_name} ({file}:{frame.f_lineno})")
        coroutine = getattr(coroutine, "gi_yieldfrom" if prefix == "gi" else f"{prefix}_await", None)
    return " < ".join(reversed(places[-4:])) or "code of the event loop"
