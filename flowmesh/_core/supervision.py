"""The actor policy: what becomes of an actor, a source or a group that has failed.

Its message has been settled before, by its own policy (see retries.py); here only the actor is judged.

    no error                                   stop: it has ended by itself, and nothing is made anew
    a leaf that is no Exception                escalate (KeyboardInterrupt, SystemExit)
    a handler's failure that `on` leaves out   go_on: the message had its verdict, the instance is as good as before
    another failure that `on` leaves out       escalate: there is no instance, and the policy does not make one
    the budget is used up                      escalate, as RestartLimitReached
    otherwise                                  restart, after a wait that grows

An exception group is judged by its leaves, and the gravest judgement stands: escalate before restart before go_on.  The
failures of one message are one charge on the budget, the latest one, so no message uses it up alone.
"""

from collections.abc import Iterator
from typing import Final, Literal, cast

from msgspec import Struct

from flowmesh._core.retries import delay_before
from flowmesh.policies import Restart

__all__ = ["FRESH", "Decision", "Failure", "History", "Strategy", "affected", "decide", "leaves"]

Strategy = Literal["one_for_one", "one_for_all", "rest_for_one"]
Verdict = Literal["go_on", "restart", "stop", "escalate"]


class Failure(Struct, frozen=True):
    """What has happened.

    `error`: None when it has ended by itself. `message`: the id of the one at whose handling it began; None if it was at none.
    `lived`: seconds from when it was ready; zero for a start that failed. `of_handler`: the error is a handler's, so the
    instance is still there.
    """

    error: BaseException | None
    message: str | None = None
    lived: float = 0.0
    of_handler: bool = False


class History(Struct, frozen=True):
    """What is remembered from one failure to the next: at most `max` charges, none if there is no limit.

    `charges`: (when, for which message), the oldest first. `row`: restarts in a row; `wait`: before the last of them, without
    its jitter.
    """

    charges: tuple[tuple[float, str | None], ...] = ()
    row: int = 0
    wait: float = 0.0


class Decision(Struct, frozen=True):
    """What to do, after how many seconds, and what to remember. `is_limit`: it escalates for the budget is used up."""

    verdict: Verdict
    history: History
    delay: float = 0.0
    is_limit: bool = False


FRESH: Final = History()


def decide(failure: Failure, history: History, now: float, *, policy: Restart, chance: float = 1.0) -> Decision:
    """Decide what becomes of whoever has failed.

    Args:
        failure: what has happened.
        history: of the same one, from the decision before; FRESH at first.
        now: seconds, on the clock of the history.
        policy: its own, or its group's.
        chance: a number in [0, 1) for the jitter.
    """
    if failure.error is None:
        return Decision("stop", history)
    verdict = _verdict_on(failure.error, policy, of_handler=failure.of_handler)
    if verdict != "restart":
        return Decision(verdict, history)
    charges = (*_standing(failure, history, now, policy), (now, failure.message))
    if policy.max is not None and len(charges) > policy.max:
        return Decision("escalate", history, is_limit=True)
    row = 1 if failure.lived > history.wait else history.row + 1
    kept = History(() if policy.max is None else charges, row, delay_before(policy, row, 1.0))
    return Decision("restart", kept, delay_before(policy, row, chance))


def affected(strategy: Strategy, failed: int, count: int) -> range:
    """Return which of a group's `count` members are brought up again, in order, when the one at index `failed` has failed."""
    match strategy:
        case "one_for_one":
            return range(failed, failed + 1)
        case "one_for_all":
            return range(count)
        case "rest_for_one":
            return range(failed, count)


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield what is in an exception group, however deep, or the exception itself."""
    rest = [error]
    while rest:
        one = rest.pop()
        if isinstance(one, BaseExceptionGroup):
            rest.extend(cast("BaseExceptionGroup[BaseException]", one).exceptions)
        else:
            yield one


def _verdict_on(error: BaseException, policy: Restart, *, of_handler: bool) -> Verdict:
    otherwise: Verdict = "go_on" if of_handler else "escalate"
    found = {_verdict_on_leaf(leaf, policy, otherwise) for leaf in leaves(error)}
    return "escalate" if "escalate" in found else "restart" if "restart" in found else otherwise


def _verdict_on_leaf(leaf: BaseException, policy: Restart, otherwise: Verdict) -> Verdict:
    if not isinstance(leaf, Exception):
        return "escalate"
    return "restart" if isinstance(leaf, policy.on) and not isinstance(leaf, policy.never) else otherwise


def _standing(failure: Failure, history: History, now: float, policy: Restart) -> Iterator[tuple[float, str | None]]:
    """Yield the charges that still count, but for those of the same message."""
    for when, message in history.charges:
        if now - when < policy.within and (message is None or message != failure.message):
            yield when, message
