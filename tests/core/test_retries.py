"""The message policy: later again, or dead letter."""

import asyncio
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmesh._core.commits import Back, Dead
from flowmesh._core.retries import delay_before, describe, verdict_on
from flowmesh.errors import Reject, RetryAfter
from flowmesh.policies import Retry

FIXED = Retry(3, initial=1.0, factor=3.0, maximum=5.0, jitter="none")


def _verdict(error: BaseException, retry: Retry | None, *, failures: int = 0, chance: float = 0.5) -> Back | Dead:
    return verdict_on(error, failures=failures, retry=retry, chance=chance)


def test_without_a_policy_there_is_one_attempt() -> None:
    """The first failure is the last, and its text is in the verdict."""
    assert _verdict(ValueError("boom"), None) == Dead("failed", "ValueError: boom")


def test_attempts_count_the_first_one() -> None:
    """Three attempts are two retries, each later than the one before."""
    verdicts = [_verdict(ValueError("boom"), FIXED, failures=failures) for failures in range(3)]
    assert verdicts == [Back(1.0, "failure"), Back(3.0, "failure"), Dead("failed", "ValueError: boom")]


def test_reject_is_a_dead_letter_whatever_the_policy_says() -> None:
    """With its reason, also on the first of many attempts."""
    assert _verdict(Reject("no such card"), FIXED) == Dead("rejected", "no such card")


def test_retry_after_counts_for_nothing() -> None:
    """It comes back when it says, however many failures there were, with or without a policy."""
    for retry in (None, FIXED):
        assert _verdict(RetryAfter(7.0), retry, failures=99) == Back(7.0, None)


@pytest.mark.parametrize(
    "policy, error, is_retried",
    [
        (Retry(on=(OSError,)), ConnectionError(), True),
        (Retry(on=(OSError,)), ValueError(), False),
        (Retry(never=(KeyError,)), KeyError("k"), False),
        (Retry(on=(KeyError,), never=(LookupError,)), KeyError("k"), False),
        (Retry(), TimeoutError(), True),
        (Retry(), asyncio.CancelledError(), True),
        (Retry(never=(asyncio.CancelledError,)), asyncio.CancelledError(), False),
        (Retry(on=(OSError,)), asyncio.CancelledError(), False),
        (Retry(on=(asyncio.CancelledError,)), asyncio.CancelledError(), True),
    ],
)
def test_on_and_never_choose_what_is_retried(policy: Retry, error: BaseException, is_retried: bool) -> None:
    """Subclasses included; `never` wins; a cancellation that nobody asked for counts as an Exception."""
    assert isinstance(_verdict(error, policy), Back) == is_retried


@given(
    failures=st.integers(1, 10_000),
    initial=st.floats(0, 1e6),
    factor=st.floats(1, 1e6),
    maximum=st.floats(0, 1e6),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_a_delay_is_never_longer_than_its_maximum(
    failures: int, initial: float, factor: float, maximum: float, chance: float
) -> None:
    """However many failures, a finite delay between zero and the maximum; with full jitter the given part of it."""
    policy: Any = {"initial": initial, "factor": factor, "maximum": maximum}
    longest = delay_before(Retry(**policy, jitter="none"), failures, chance)
    assert 0.0 <= longest <= maximum
    assert math.isfinite(longest)
    assert delay_before(Retry(**policy), failures, chance) == longest * chance
    assert longest <= delay_before(Retry(**policy, jitter="none"), failures + 1, chance)


def test_delays_grow_by_the_factor_up_to_the_maximum() -> None:
    """initial, then times factor, then the maximum, also where the power no longer fits into a float."""
    policy = Retry(initial=0.5, factor=2.0, maximum=3.0, jitter="none")
    assert [delay_before(policy, failures, 0.0) for failures in (1, 2, 3, 4, 5000)] == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_an_exception_is_described_in_one_line() -> None:
    """Its type, and its text if there is one."""
    assert describe(ValueError("boom")) == "ValueError: boom"
    assert describe(TimeoutError()) == "TimeoutError"
