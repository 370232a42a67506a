"""What users configure: checked where it is made, frozen, and equal when it says the same."""

import math
from datetime import timedelta
from typing import Any

import pytest

from flowmesh._core.router import Router
from flowmesh.policies import (
    DEFAULT_CAPACITY,
    Autoscale,
    Batch,
    Breaker,
    Debounce,
    Limit,
    MailboxOptions,
    Once,
    Rate,
    Restart,
    Retry,
    name_of,
)


def test_the_defaults_are_those_of_the_design() -> None:
    """A bounded mailbox whose senders wait; five attempts with growing, jittered delays."""
    options = MailboxOptions()
    assert (options.capacity, options.overflow, options.ttl, options.priorities) == (10_000, "wait", None, False)
    assert (options.dead_letter, options.dead_letter_key, options.max_deliveries) == (None, None, 20)
    assert DEFAULT_CAPACITY == 10_000
    assert Retry() == Retry(5, initial=0.2, factor=2.0, maximum=30.0, jitter="full", on=(Exception,), never=())


@pytest.mark.parametrize(
    "name, value, text",
    [
        ("capacity", 0, "capacity must be a whole number of at least 1, not 0"),
        ("capacity", 1.5, "capacity must be a whole number of at least 1, not 1.5"),
        ("capacity", True, "capacity must be a whole number of at least 1, not True"),
        ("overflow", "block", "overflow must be one of wait, reject, drop_oldest, drop_newest, not 'block'"),
        ("single_active", 1, "single_active must be True or False, not 1"),
        ("expires", 0, "expires must be more than zero seconds, or None, not 0"),
        ("expires", -1.0, "expires must be more than zero seconds, or None, not -1.0"),
        ("expires", math.inf, "expires must be more than zero seconds, or None, not inf"),
        ("expires", math.nan, "expires must be more than zero seconds, or None, not nan"),
        ("ttl", -1.0, "ttl must be zero or more seconds, or None, not -1.0"),
        ("ttl", "5", "ttl must be zero or more seconds, or None, not '5'"),
        ("expires", "5", "expires must be more than zero seconds, or None, not '5'"),
        ("ttl", math.nan, "ttl must be zero or more seconds, or None, not nan"),
        ("max_deliveries", 0, "max_deliveries must be a whole number of at least 1, not 0"),
        ("max_deliveries", False, "max_deliveries must be a whole number of at least 1, not False"),
        ("dead_letter_key", "k", "dead_letter_key needs dead_letter: name the exchange that dead letters are published to"),
    ],
)
def test_a_bad_mailbox_option_is_named(name: str, value: Any, text: str) -> None:
    """The error says which option, what it takes, and what was given."""
    with pytest.raises(ValueError) as caught:
        MailboxOptions(**{name: value})
    assert str(caught.value) == text


@pytest.mark.parametrize(
    "name, value, text",
    [
        ("attempts", 0, "attempts must be a whole number of at least 1, not 0"),
        ("attempts", True, "attempts must be a whole number of at least 1, not True"),
        ("initial", -0.1, "initial must be zero or more seconds, not -0.1"),
        ("initial", math.nan, "initial must be zero or more seconds, not nan"),
        ("factor", 0.5, "factor must be at least 1, not 0.5"),
        ("maximum", -1, "maximum must be zero or more seconds, not -1"),
        ("jitter", "some", "jitter must be 'full' or 'none', not 'some'"),
        ("initial", "1", "initial must be zero or more seconds, not '1'"),
        (
            "maximum",
            timedelta(minutes=2),
            f"maximum must be zero or more seconds, not {timedelta(minutes=2)!r}: write maximum=120, in seconds",
        ),
        ("on", ValueError, f"on must be a tuple of exception types, not {ValueError!r}: write on=(ValueError,)"),
        (
            "on",
            [ValueError, OSError],
            f"on must be a tuple of exception types, not {[ValueError, OSError]!r}: write on=(ValueError, OSError)",
        ),
        ("never", (ValueError, 5), f"never must be a tuple of exception types, not {(ValueError, 5)!r}"),
        ("on", (int,), f"on must be a tuple of exception types, not {(int,)!r}"),
    ],
)
def test_a_bad_retry_option_is_named(name: str, value: Any, text: str) -> None:
    """The error says which option, what it takes, and what was given."""
    with pytest.raises(ValueError) as caught:
        Retry(**{name: value})
    assert str(caught.value) == text


@pytest.mark.parametrize(
    "kind, values, options, text",
    [
        (MailboxOptions, (), {"capasity": 5}, "unknown option 'capasity' of MailboxOptions (did you mean 'capacity'?)"),
        (Retry, (), {"attemps": 5}, "unknown option 'attemps' of Retry (did you mean 'attempts'?)"),
        (Restart, (), {"withn": 5}, "unknown option 'withn' of Restart (did you mean 'within'?)"),
        (Limit, (1,), {"size": 5}, "unknown option 'size' of Limit: it takes n, by, surplus"),
        (Rate, (10,), {}, "Rate needs per=: write Rate(10, per=1.0)"),
        (Rate, (), {"burst": 2}, "Rate needs n= and per=: write Rate(10, per=1.0)"),
        (Limit, (), {}, "Limit needs n=: write Limit(4)"),
        (Once, (), {}, "Once needs by=: write Once(by=lambda body: body.id)"),
        (Batch, (100,), {}, "Batch needs within=: write Batch(100, 0.5)"),
        (Debounce, (0.5,), {}, "Debounce needs max_wait=: write Debounce(0.5, 5.0)"),
        (Rate, (10, 1.0), {"n": 5}, "Rate is given n twice, by its place and by name: leave one of them out"),
        (Autoscale, (1, 2, 3, 4), {}, "Autoscale takes 3 options (min, max, target), not 4: give them by name"),
    ],
)
def test_options_that_are_unknown_or_missing_are_named(kind: Any, values: Any, options: Any, text: str) -> None:
    """The error names the policy and the option that was meant, or how it is written."""
    with pytest.raises(TypeError) as caught:
        kind(*values, **options)
    assert str(caught.value) == text


def test_the_examples_in_errors_can_be_written() -> None:
    """What an error tells to write is a policy of its kind."""
    kinds = (Rate, Limit, Once, Batch, Debounce)
    assert [type(eval(kind.written)) for kind in kinds] == list(kinds)


def test_an_exchange_and_its_name_declare_the_same() -> None:
    """`dead_letter` takes either; it is kept as the name."""
    exchange = Router().declare_exchange("dlx", "fanout")
    assert MailboxOptions(dead_letter=exchange) == MailboxOptions(dead_letter="dlx")
    assert MailboxOptions(dead_letter=exchange).dead_letter_name == "dlx"
    assert MailboxOptions().dead_letter_name is None
    assert MailboxOptions(dead_letter="").dead_letter_name == ""
    assert (name_of(exchange), name_of("dlx")) == ("dlx", "dlx")


@pytest.mark.parametrize("policy, name", [(MailboxOptions(), "capacity"), (Retry(), "attempts")])
def test_policies_are_frozen(policy: Any, name: str) -> None:
    """A policy that is in use cannot change."""
    with pytest.raises(AttributeError):
        setattr(policy, name, 2)


def test_a_dead_letter_that_is_no_exchange_is_named() -> None:
    """What cannot name an exchange is refused where it is written, with the option's name."""
    with pytest.raises(ValueError, match="dead_letter must be an exchange or its name, or None, not 5"):
        MailboxOptions(dead_letter=5)  # pyright: ignore[reportArgumentType] - that is the mistake


@pytest.mark.parametrize(
    "make, arguments, text",
    [
        (Rate, {"n": 0}, "n must be a whole number of at least 1, not 0"),
        (Rate, {"n": 1.5}, "n must be a whole number of at least 1, not 1.5"),
        (Rate, {"n": 1, "per": 0}, "per must be more than zero seconds, not 0"),
        (Rate, {"n": 1, "per": math.nan}, "per must be more than zero seconds, not nan"),
        (Rate, {"n": 1, "per": math.inf}, "per must be more than zero seconds, not inf"),
        (Rate, {"n": 1, "burst": 0}, "burst must be a whole number of at least 1, or None, not 0"),
        (
            Rate,
            {"n": 1, "by": "owner"},
            "by must be a function of the body, or None, not 'owner': write by=lambda body: body.owner",
        ),
        (Limit, {"n": True}, "n must be a whole number of at least 1, not True"),
        (Limit, {"n": 1, "by": 3}, "by must be a function of the body, or None, not 3"),
        (
            Limit,
            {"n": 1, "surplus": "drop"},
            "surplus must be one of queue, drop_new, drop_old, cancel_running, keep_newest, not 'drop'",
        ),
        (Breaker, {"failures": 0}, "failures must be a whole number of at least 1, not 0"),
        (Breaker, {"within": 0}, "within must be more than zero seconds, not 0"),
        (Breaker, {"pause": "1"}, "pause must be more than zero seconds, not '1'"),
        (Breaker, {"on": OSError}, "on must be a tuple of exception types, not <class 'OSError'>: write on=(OSError,)"),
        (Breaker, {"never": (1,)}, "never must be a tuple of exception types, not (1,)"),
        (Breaker, {"by": 1}, "by must be a function of the body, or None, not 1"),
        (Once, {"by": None}, "by must be a function of the body, not None"),
        (Once, {"by": str, "ttl": -1}, "ttl must be more than zero seconds, not -1"),
        (Autoscale, {"min": 0}, "min must be a whole number of at least 1, not 0"),
        (Autoscale, {"min": 3, "max": 2}, "max must be a whole number of at least min (3), not 2"),
        (Autoscale, {"target": 0}, "target must be more than zero seconds, not 0"),
    ],
)
def test_wrong_values_of_gates_and_slots(make: Any, arguments: dict[str, Any], text: str) -> None:
    """A value out of its range is refused where it is made; the error names the option and what it takes."""
    with pytest.raises(ValueError) as caught:
        make(**({"per": 1.0} if make is Rate else {}) | arguments)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    "options, text",
    [
        ({"size": 0}, "size must be a whole number of at least 1, not 0"),
        ({"size": True}, "size must be a whole number of at least 1, not True"),
        ({"within": -1.0}, "within must be zero or more seconds, not -1.0"),
        ({"within": math.inf}, "within must be zero or more seconds, not inf"),
        ({"within": "1"}, "within must be zero or more seconds, not '1'"),
        (
            {"by": "customer"},
            "by must be a function of the body, or None, not 'customer': write by=lambda body: body.customer",
        ),
        ({"max_bytes": 0}, "max_bytes must be a whole number of at least 1, or None, not 0"),
    ],
)
def test_a_bad_batch_option_is_named(options: dict[str, Any], text: str) -> None:
    """The error says which option, what it takes, and what was given."""
    with pytest.raises(ValueError) as caught:
        Batch(**{"size": 10, "within": 1.0, **options})
    assert str(caught.value) == text


@pytest.mark.parametrize(
    "options, text",
    [
        ({"quiet": -1.0}, "quiet must be zero or more seconds, not -1.0"),
        ({"quiet": math.nan}, "quiet must be zero or more seconds, not nan"),
        ({"max_wait": 0.5}, "max_wait must be seconds, at least as many as quiet, not 0.5"),
        ({"max_wait": None}, "max_wait must be seconds, at least as many as quiet, not None"),
        ({"by": 5}, "by must be a function of the body, or None, not 5"),
    ],
)
def test_a_bad_debounce_option_is_named(options: dict[str, Any], text: str) -> None:
    """The error says which option, what it takes, and what was given."""
    with pytest.raises(ValueError) as caught:
        Debounce(**{"quiet": 1.0, "max_wait": 5.0, **options})
    assert str(caught.value) == text


def test_without_an_end() -> None:
    """A burst may be allowed to last as long as it likes."""
    assert Debounce(1.0, math.inf).max_wait == math.inf
