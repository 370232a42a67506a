"""The actor policy: one decision from a failure, what is remembered, and the time."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmesh._core.retries import delay_before
from flowmesh._core.supervision import FRESH, Decision, Failure, History, Strategy, affected, decide, leaves
from flowmesh.policies import Restart

POLICY = Restart(max=2, within=10.0, initial=1.0, jitter="none", on=(OSError,), never=(FileNotFoundError,))


def of_handler(error: BaseException, message: str = "m1", lived: float = 5.0) -> Failure:
    """A handler's failure."""
    return Failure(error, message, lived, of_handler=True)


def group(*errors: BaseException) -> BaseExceptionGroup[BaseException]:
    """A group of these, one deeper than it need be."""
    return BaseExceptionGroup("outer", [BaseExceptionGroup("inner", errors)])


@pytest.mark.parametrize(
    "error, handler, other",
    [
        (OSError(), "restart", "restart"),
        (ConnectionError(), "restart", "restart"),
        (FileNotFoundError(), "go_on", "escalate"),
        (ValueError(), "go_on", "escalate"),
        (KeyboardInterrupt(), "escalate", "escalate"),
        (SystemExit(), "escalate", "escalate"),
        (group(OSError(), OSError()), "restart", "restart"),
        (group(OSError(), ValueError()), "restart", "escalate"),
        (group(ValueError(), FileNotFoundError()), "go_on", "escalate"),
        (group(OSError(), KeyboardInterrupt()), "escalate", "escalate"),
    ],
)
def test_what_an_error_means(error: BaseException, handler: str, other: str):
    """A handler's failure that `on` leaves out lets the instance live on; another one's escalates; of a group the gravest."""
    assert decide(of_handler(error), FRESH, 0.0, policy=POLICY).verdict == handler
    decision = decide(Failure(error), FRESH, 0.0, policy=POLICY)
    assert decision.verdict == other
    assert not decision.is_limit


def test_what_has_ended_by_itself_stays_so():
    """Without an error nothing is made anew, and nothing is remembered."""
    assert decide(Failure(None), FRESH, 0.0, policy=POLICY) == Decision("stop", FRESH)


def decisions(policy: Restart, *failures: tuple[float, Failure]) -> list[Decision]:
    """Decide one after the other."""
    history, found = FRESH, list[Decision]()
    for now, failure in failures:
        found.append(decide(failure, history, now, policy=policy))
        history = found[-1].history
    return found


def test_the_budget():
    """`max` restarts within `within` seconds; one more escalates; a charge counts until it is that old, and not longer."""
    failing = Failure(OSError())
    assert [one.verdict for one in decisions(POLICY, *((when, failing) for when in (0.0, 9.0, 9.9)))] == [
        *("restart", "restart", "escalate")
    ]
    last = decisions(POLICY, *((when, failing) for when in (0.0, 9.0, 9.9)))[-1]
    assert last.is_limit
    assert [one.verdict for one in decisions(POLICY, *((when, failing) for when in (0.0, 9.0, 10.0, 18.9)))] == [
        *("restart", "restart", "restart", "escalate")
    ]


def test_one_message_counts_once():
    """However often it fails; two others beside it are allowed, a third one is not."""
    poison = [(float(when), of_handler(OSError(), "poison")) for when in range(9)]
    assert {one.verdict for one in decisions(POLICY, *poison)} == {"restart"}
    others = [(9.0, of_handler(OSError(), "m1")), (9.1, of_handler(OSError(), "m2"))]
    assert [one.verdict for one in decisions(POLICY, *poison, *others)][-2:] == ["restart", "escalate"]


def test_the_waits():
    """They grow from restart to restart, up to `maximum`; who has lived longer than the last wait begins a new row."""
    policy = Restart(max=None, initial=1.0, factor=3.0, maximum=5.0, jitter="none")

    def waits(*lives: float) -> list[float]:
        return [one.delay for one in decisions(policy, *((0.0, Failure(OSError(), None, lived)) for lived in lives))]

    assert waits(0, 0, 0, 0) == [1.0, 3.0, 5.0, 5.0]
    assert waits(9, 0.5, 3.0, 3.1, 1.1) == [1.0, 3.0, 5.0, 5.0, 5.0]
    assert waits(0, 0, 3.1, 0) == [1.0, 3.0, 1.0, 3.0]


def test_the_jitter():
    """It is drawn between zero and the whole wait, and the whole wait is what is remembered."""
    policy = Restart(initial=4.0)
    half = decide(Failure(OSError()), FRESH, 0.0, policy=policy, chance=0.5)
    assert half.delay == 2.0
    assert half.history.wait == 4.0


def test_without_limit_nothing_is_remembered_but_the_row():
    """So that a policy without a budget keeps no list of charges."""
    policy = Restart(max=None)
    found = decisions(policy, *((0.0, of_handler(OSError(), f"m{number}")) for number in range(1000)))
    assert {one.verdict for one in found} == {"restart"}
    assert all(one.history.charges == () for one in found)


class Model:
    """The same rules, from the list of everything that has happened."""

    def __init__(self, policy: Restart) -> None:
        self.policy = policy
        self.past: list[tuple[float, str | None]] = []
        self.row, self.wait = 0, 0.0

    def decide(self, failure: Failure, now: float) -> tuple[str, float]:
        assert failure.error is not None
        found = list(leaves(failure.error))
        if not all(isinstance(leaf, Exception) for leaf in found):
            return "escalate", 0.0
        matching = [isinstance(leaf, self.policy.on) and not isinstance(leaf, self.policy.never) for leaf in found]
        if not (any(matching) if failure.of_handler else all(matching)):
            return ("go_on" if failure.of_handler else "escalate"), 0.0
        recent = [message for when, message in [*self.past, (now, failure.message)] if now - when < self.policy.within]
        charged = len({message for message in recent if message is not None}) + recent.count(None)
        if self.policy.max is not None and charged > self.policy.max:
            return "escalate", 0.0
        self.past.append((now, failure.message))
        self.row = 1 if failure.lived > self.wait else self.row + 1
        self.wait = delay_before(self.policy, self.row, 1.0)
        return "restart", self.wait


errors = st.recursive(
    st.sampled_from([OSError(), FileNotFoundError(), ValueError(), KeyboardInterrupt()]),
    lambda inner: st.lists(inner, min_size=1, max_size=3).map(lambda found: BaseExceptionGroup("group", found)),
    max_leaves=4,
)
failures = st.builds(
    Failure,
    st.one_of(st.just(OSError()), errors),
    st.sampled_from([None, "m1", "m2", "m3"]),
    st.floats(0, 20),
    of_handler=st.booleans(),
)


@given(
    happened=st.lists(st.tuples(st.floats(0, 8), failures), max_size=40),
    most=st.one_of(st.none(), st.integers(1, 4)),
    initial=st.sampled_from([0.0, 0.5, 2.0]),
)
def test_against_a_model(happened: list[tuple[float, Failure]], most: int | None, initial: float):
    """Every sequence is decided as from the list of all that has happened; the history stays within the budget."""
    policy = Restart(
        max=most, within=10.0, initial=initial, maximum=16.0, jitter="none", on=(OSError,), never=(FileNotFoundError,)
    )
    model, history, now = Model(policy), FRESH, 0.0
    for pause, failure in happened:
        now += pause
        decision = decide(failure, history, now, policy=policy)
        assert (decision.verdict, decision.delay) == model.decide(failure, now)
        assert len(decision.history.charges) <= (most or 0)
        history = decision.history


@given(st.lists(st.floats(0, 5), max_size=50))
def test_one_message_never_uses_up_the_budget(pauses: list[float]):
    """Not even of one restart, whatever the times."""
    policy, history, now = Restart(max=1, within=10.0), History(), 0.0
    for pause in pauses:
        now += pause
        decision = decide(of_handler(OSError(), "poison"), history, now, policy=policy)
        assert decision.verdict == "restart"
        history = decision.history


@pytest.mark.parametrize("strategy, expected", [("one_for_one", [1]), ("one_for_all", [0, 1, 2]), ("rest_for_one", [1, 2])])
def test_who_is_brought_up_again(strategy: Strategy, expected: list[int]):
    """With the second of three: only it, all, or it and those after it; in order."""
    assert list(affected(strategy, 1, 3)) == expected


@pytest.mark.parametrize(
    "options, text",
    [
        ({"max": 0}, "max must be a whole number of at least 1, or None"),
        ({"max": True}, "max must be"),
        ({"within": 0.0}, "within must be more than zero"),
        ({"initial": -1.0}, "initial must be zero or more"),
        ({"factor": 0.5}, "factor must be at least 1"),
        ({"maximum": -1.0}, "maximum must be zero or more"),
        ({"jitter": "half"}, "jitter must be 'full' or 'none'"),
        ({"on": OSError}, "on must be a tuple of exception types"),
        ({"never": ("OSError",)}, "never must be a tuple of exception types"),
    ],
)
def test_a_policy_out_of_its_range(options: dict[str, Any], text: str):
    """It is refused where it is made, naming the value."""
    with pytest.raises(ValueError, match=text):
        Restart(**options)
