"""The message policy: what becomes of a message whose handler failed."""

from flowmesh._core.commits import Back, Dead
from flowmesh.errors import Reject, RetryAfter
from flowmesh.policies import Backoff, Retry

__all__ = ["delay_before", "describe", "verdict_on"]


def verdict_on(error: BaseException, *, failures: int, retry: Retry | None, chance: float) -> Back | Dead:
    """Decide: later again, or dead letter.

    Args:
        error: what the handler raised; a cancellation that nobody asked for counts as an Exception.
        failures: exceptions and time limits of this copy before this one.
        retry: the actor's policy; None means one attempt.
        chance: a number in [0, 1) for the jitter.
    """
    if isinstance(error, Reject):
        return Dead("rejected", error.reason)
    if isinstance(error, RetryAfter):
        return Back(error.delay)
    if retry is None or failures + 1 >= retry.attempts or not _is_retried(error, retry):
        return Dead("failed", describe(error))
    return Back(delay_before(retry, failures + 1, chance), "failure")


def delay_before(retry: Backoff, failures: int, chance: float) -> float:
    """Return the seconds to wait after that many failures (at least 1)."""
    try:
        longest = min(retry.maximum, retry.initial * retry.factor ** (failures - 1))
    except OverflowError:
        longest = retry.maximum
    return longest * chance if retry.jitter == "full" else longest


def describe(error: BaseException) -> str:
    """Return the exception in one line, for the history of deaths."""
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _is_retried(error: BaseException, retry: Retry) -> bool:
    if isinstance(error, retry.never):
        return False
    return isinstance(error, retry.on) or (not isinstance(error, Exception) and Exception in retry.on)
