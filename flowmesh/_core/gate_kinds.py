"""The kinds of gates: what each knows of its values, and how it decides by it (see gate_states.py for what is asked).

Values stand in the order in which they will fade, so that forgetting costs no search.
"""

import math
from collections import deque
from collections.abc import Iterable
from typing import Any, Literal, assert_never

from flowmesh._core.entry import Entry
from flowmesh._core.gate_states import NEVER, ROUNDING, GateState, TurnEnd, Verdict, forget_while
from flowmesh.errors import Reject
from flowmesh.policies import Breaker, Gate, Limit, Once, Rate

__all__ = ["BreakerState", "LimitState", "OnceState", "RateState", "state_of"]

GO, HOLD, DROP = Verdict.GO, Verdict.HOLD, Verdict.DROP


class RateState:
    """The generic cell rate algorithm: per value the theoretical time of the next start, if starts were spaced evenly."""

    def __init__(self, policy: Rate) -> None:
        self.policy = policy
        self.dropped = 0
        self.interval = policy.per / policy.n
        burst = max(1, int(0.01 / self.interval)) if policy.burst is None else policy.burst
        self.tolerance = (burst - 1) * self.interval
        self.forgotten: list[Any] | None = None
        self._times: dict[Any, float] = {}

    def look(self, value: Any, entry: Entry, now: float, *, is_behind: bool) -> Verdict:
        """Hold what is too early."""
        del entry
        return HOLD if is_behind or self.when(value, now) > now + ROUNDING else GO

    def when(self, value: Any, now: float) -> float:
        """Return the first moment at which the rate is kept."""
        return self._times.get(value, now) - self.tolerance

    def start(self, value: Any, entry: Entry, now: float) -> None:
        """Count a start."""
        del entry
        self._times[value] = max(now, self._times.pop(value, now)) + self.interval

    def end(self, value: Any, entry: Entry, now: float, ending: TurnEnd) -> None:
        """Nothing: starts count."""

    def fade(self, now: float) -> float | None:
        """Forget values whose time has passed. In the order of the last start: late by no more than a burst's time."""
        return forget_while(self._times, lambda time: time <= now + ROUNDING, self.forgotten)

    def lasting(self, value: Any, entry: Entry, *, is_done: bool) -> float | None:
        """Return the time of the value: starts count, however their turns end."""
        del entry, is_done
        return self._times.get(value)

    def known(self) -> Iterable[tuple[Any, float]]:
        """Return the time of each value."""
        return self._times.items()

    def recall(self, value: Any, until: float, now: float) -> float:
        """Take a time back, as if the value had started a whole burst just now at the most."""
        self._times[value] = until = min(until, now + self.tolerance + self.interval)
        return until

    def values(self) -> int:
        """Return how many values have started something lately."""
        return len(self._times)

    def condition(self) -> None:
        """Return None: it has none."""


class LimitState:
    """Per value the copies whose handlers run, the first to start first. `n` may be changed."""

    def __init__(self, policy: Limit) -> None:
        self.policy = policy
        self.dropped = 0
        self.n = policy.n
        self._running: dict[Any, dict[Entry, None]] = {}
        self._leaving: set[Entry] = set()

    @property
    def most_held(self) -> float:
        """How many copies of one value may be held; of more the oldest are dropped."""
        match self.policy.surplus:
            case "queue" | "drop_new":  # what `drop_new` holds has come back, and is bounded by what was running
                return math.inf
            case "drop_old" | "cancel_running":
                return self.n
            case "keep_newest":
                return 1

    def look(self, value: Any, entry: Entry, now: float, *, is_behind: bool) -> Verdict:
        """Let it through if fewer than `n` run."""
        del now
        if not is_behind and self._free(value):
            return GO
        surplus = self.policy.surplus
        if surplus == "drop_new" and not entry.redelivered:
            return DROP
        if surplus == "cancel_running":
            oldest = self.to_cancel(value)
            if oldest is not None and oldest.place > entry.place:
                return DROP
        return HOLD

    def to_cancel(self, value: Any) -> Entry | None:
        """Return the oldest copy whose handler runs and has not been cancelled."""
        running = (entry for entry in self._running.get(value, ()) if entry not in self._leaving)
        return min(running, key=lambda entry: entry.place, default=None)

    def cancel_oldest(self, value: Any) -> Entry | None:
        """Choose whose handler shall be cancelled for a new one, and note it; None if all have been."""
        oldest = self.to_cancel(value)
        if oldest is not None:
            self._leaving.add(oldest)
        return oldest

    def when(self, value: Any, now: float) -> float:
        """Return now if fewer than `n` run."""
        return now if self._free(value) else NEVER

    def start(self, value: Any, entry: Entry, now: float) -> None:
        """Count it."""
        del now
        self._running.setdefault(value, {})[entry] = None

    def end(self, value: Any, entry: Entry, now: float, ending: TurnEnd) -> None:
        """Count it no more; one that was cancelled for a newer one has been dropped, unless it was done all the same."""
        del now
        running = self._running.get(value)
        if running is not None:
            running.pop(entry, None)
            if not running:
                del self._running[value]
        if entry in self._leaving:
            self._leaving.discard(entry)
            self.dropped += not ending.is_done

    def _free(self, value: Any) -> bool:
        return len(self._running.get(value, ())) < self.n

    def fade(self, now: float) -> float | None:
        """Nothing: what has ended is forgotten at once."""

    def values(self) -> int:
        """Return of how many values handlers run."""
        return len(self._running)

    def condition(self) -> None:
        """Return None: it has none."""


class _Open:
    """An open breaker: until when, and which copy probes."""

    __slots__ = ("probe", "until")

    def __init__(self, until: float) -> None:
        self.until = until
        self.probe: Entry | None = None


class BreakerState:
    """Per value the times of its latest failures, if it is closed; when it probes, if it is open.

    closed -> open (failures) -> half-open (pause is over) -> closed (probe returned) | open (probe failed)
    """

    def __init__(self, policy: Breaker) -> None:
        self.policy = policy
        self.dropped = 0
        self._failures: dict[Any, deque[float]] = {}
        self._open: dict[Any, _Open] = {}

    def look(self, value: Any, entry: Entry, now: float, *, is_behind: bool) -> Verdict:
        """Hold all while it is open, all but the probe while it is half-open."""
        del entry
        return HOLD if is_behind or self.when(value, now) > now + ROUNDING else GO

    def when(self, value: Any, now: float) -> float:
        """Return the end of the pause; NEVER while a probe runs."""
        found = self._open.get(value)
        if found is None:
            return now
        return found.until if found.probe is None else NEVER

    def start(self, value: Any, entry: Entry, now: float) -> None:
        """Note the probe."""
        del now
        found = self._open.get(value)
        if found is not None:
            found.probe = entry

    def end(self, value: Any, entry: Entry, now: float, ending: TurnEnd) -> None:
        """Count a failure, or judge by the probe; of others that end while it is open nothing is learned."""
        has_failed = self._counts(ending.error)
        found = self._open.get(value)
        if found is not None:
            if found.probe is not entry:
                return
            found.probe = None
            if has_failed:
                found.until = now + self.policy.pause
                self._open[value] = self._open.pop(value)
            elif ending.is_done or ending.error is not None:
                del self._open[value]
        elif has_failed and not ending.is_repeated:
            times = self._failures.pop(value, None) or deque[float](maxlen=self.policy.failures)
            times.append(now)
            if len(times) == self.policy.failures and now - times[0] <= self.policy.within:
                self._open[value] = _Open(now + self.policy.pause)
            else:
                self._failures[value] = times

    def stands_open(self, value: Any, entry: Entry) -> bool:
        """Whether it has opened since this copy started, which is not its probe."""
        found = self._open.get(value)
        return found is not None and found.probe is not entry

    def _counts(self, error: BaseException | None) -> bool:
        if error is None or isinstance(error, (Reject, *self.policy.never)):
            return False
        # A cancellation that nobody asked for is a failure like any exception.
        return isinstance(error, self.policy.on) or (not isinstance(error, Exception) and Exception in self.policy.on)

    def fade(self, now: float) -> float | None:
        """Forget failures that are too long ago, and open breakers that nothing has come to probe."""
        within, due = self.policy.within, NEVER
        times = forget_while(self._failures, lambda times: times[-1] + within < now)
        if times is not None:
            due = times[-1] + within + ROUNDING
        found = forget_while(self._open, lambda found: found.probe is None and found.until + within < now)
        if found is not None:
            due = min(due, max(found.until + within, now) + ROUNDING)
        return None if due == NEVER else due

    def values(self) -> int:
        """Return how many values have failed lately or are open."""
        return len(self._failures) + len(self._open)

    def condition(self) -> Literal["closed", "open", "half-open"]:
        """Return the worst condition of all its values."""
        if not self._open:
            return "closed"
        return "half-open" if all(found.probe is not None for found in self._open.values()) else "open"


class OnceState:
    """Per value which copy claimed it, and until when."""

    def __init__(self, policy: Once) -> None:
        self.policy = policy
        self.dropped = 0
        self.forgotten: list[Any] | None = None
        self._claims: dict[Any, tuple[Entry | None, float]] = {}

    def look(self, value: Any, entry: Entry, now: float, *, is_behind: bool) -> Verdict:
        """Drop it if its value is claimed."""
        del entry, is_behind
        claim = self._claims.get(value)
        return GO if claim is None or claim[1] <= now else DROP

    def when(self, value: Any, now: float) -> float:
        """Return now: it holds nothing."""
        del value
        return now

    def start(self, value: Any, entry: Entry, now: float) -> None:
        """Claim its value."""
        if self._claims.pop(value, None) is not None and self.forgotten is not None:
            self.forgotten.append(value)  # A claim that is over; this one may be released.
        self._claims[value] = (entry, now + self.policy.ttl)

    def end(self, value: Any, entry: Entry, now: float, ending: TurnEnd) -> None:
        """Keep the claim if it is done, otherwise release it; the claim of a later one stands."""
        del now
        claim = self._claims.get(value)
        if claim is None or claim[0] is not entry:
            return
        if ending.is_done:
            self._claims[value] = (None, claim[1])  # its message is not kept alive
        else:
            del self._claims[value]

    def fade(self, now: float) -> float | None:
        """Forget claims that are over."""
        claim = forget_while(self._claims, lambda claim: claim[1] <= now, self.forgotten)
        return None if claim is None else claim[1]

    def lasting(self, value: Any, entry: Entry, *, is_done: bool) -> float | None:
        """Return until when the value is claimed by a copy that is done."""
        claim = self._claims.get(value)
        return claim[1] if is_done and claim is not None and claim[0] is entry else None

    def known(self) -> Iterable[tuple[Any, float]]:
        """Return the values that are claimed by what is done."""
        return [(value, until) for value, (entry, until) in self._claims.items() if entry is None]

    def recall(self, value: Any, until: float, now: float) -> float:
        """Take a claim back, for no more than its time to live."""
        until = min(until, now + self.policy.ttl)
        self._claims[value] = (None, until)
        return until

    def values(self) -> int:
        """Return how many values are claimed."""
        return len(self._claims)

    def condition(self) -> None:
        """Return None: it has none."""


def state_of(policy: Gate) -> GateState:
    """Return a gate as new."""
    match policy:
        case Rate():
            return RateState(policy)
        case Limit():
            return LimitState(policy)
        case Breaker():
            return BreakerState(policy)
        case Once():
            return OnceState(policy)
        case _:
            assert_never(policy)
