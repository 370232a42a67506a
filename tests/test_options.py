"""What is said about an actor: a mistake is named where it is made, with what to write instead."""

from datetime import timedelta
from typing import Any

import pytest

from flowmesh import Autoscale, Batch, Breaker, Debounce, Limit, Mesh, Rate, Retry


@pytest.mark.parametrize(
    "options, text",
    [
        ({"retry": 3}, "retry must be a Retry, or None, not 3: write retry=Retry(3)"),
        ({"retry": Retry}, f"retry must be a Retry, or None, not {Retry!r}: write retry=Retry()"),
        ({"retry": "often"}, "retry must be a Retry, or None, not 'often'"),
        ({"restart": 5}, "restart must be a Restart, or None, not 5: write restart=Restart(5)"),
        ({"restart": Retry(3)}, f"restart must be a Restart, or None, not {Retry(3)!r}"),
        ({"mailbox": 256}, "mailbox must be MailboxOptions or a Mailbox, not 256: write mailbox=MailboxOptions(capacity=256)"),
        ({"mailbox": "work"}, "mailbox must be MailboxOptions or a Mailbox, not 'work': write mailbox=mesh.mailbox('work')"),
        ({"batch": 100}, "batch must be a Batch, not 100: write batch=Batch(100, 0.5)"),
        ({"debounce": 0.5}, "debounce must be a Debounce, or None, not 0.5: write debounce=Debounce(0.5, 5.0)"),
        ({"by": "owner"}, "by must be a function of the body, or None, not 'owner': write by=lambda body: body.owner"),
        ({"timeout": "5"}, "timeout must be more than zero seconds, or None, not '5'"),
        (
            {"timeout": timedelta(seconds=90)},
            f"timeout must be more than zero seconds, or None, not {timedelta(seconds=90)!r}: write timeout=90, in seconds",
        ),
        (
            {"concurrency": Autoscale},
            f"concurrency must be a whole number of at least 1, or Autoscale, not {Autoscale!r}: write concurrency=Autoscale()",
        ),
        (
            {"gates": Limit(1)},
            f"gates must be a list of Rate, Limit, Breaker and Once, not {Limit(1)!r}: write gates=[Limit(...)]",
        ),
        (
            {"gates": Rate},
            f"gates must be a list of Rate, Limit, Breaker and Once, not {Rate!r}: write gates=[Rate(10, per=1.0)]",
        ),
        (
            {"gates": Breaker},
            f"gates must be a list of Rate, Limit, Breaker and Once, not {Breaker!r}: write gates=[Breaker()]",
        ),
        ({"gates": ["fast"]}, "gates must be a list of Rate, Limit, Breaker and Once, not ['fast']"),
        ({"gates": [Limit]}, f"gates must be a list of Rate, Limit, Breaker and Once, not {[Limit]!r}: write gates=[Limit(4)]"),
    ],
)
def test_a_value_that_an_option_does_not_take(options: dict[str, Any], text: str):
    """The error says what the option takes, what was given, and how to write what was probably meant."""
    with pytest.raises(ValueError) as caught:
        Mesh().actor(**options)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    "options, text",
    [
        (
            {"capacity": 5},
            "unknown actor option 'capacity', which is one of MailboxOptions: write mailbox=MailboxOptions(capacity=...)",
        ),
        ({"attempts": 5}, "unknown actor option 'attempts', which is one of Retry: write retry=Retry(attempts=...)"),
        ({"retries": 5}, "unknown actor option 'retries' (did you mean 'retry'?)"),
    ],
)
def test_an_option_that_actors_do_not_have(options: dict[str, Any], text: str):
    """The error says which one was meant, or whose it is."""
    with pytest.raises(TypeError) as caught:
        Mesh().actor(**options)
    assert str(caught.value) == text


@pytest.mark.parametrize("name", ["retry", "restart", "mailbox", "batch", "debounce", "by", "timeout"])
def test_none_is_as_good_as_nothing(name: str):
    """Each option that can be left out can be None."""
    options: dict[str, Any] = {name: None}
    Mesh().actor(**options)


def test_options_that_do_not_go_together_say_what_to_write_instead():
    """Batches and bursts keep values apart themselves, and are not one beside the other."""

    async def take(bodies: list[int]) -> None:
        del bodies

    with pytest.raises(ValueError, match="cannot have both batch= and debounce=: let the one tell an actor with the other"):
        Mesh().actor(batch=Batch(2, 1.0), debounce=Debounce(1.0, 2.0))(take)
    with pytest.raises(ValueError, match="the gates to an actor of its own, and let the debounced one tell it"):
        Mesh().actor(debounce=Debounce(1.0, 2.0), gates=[Rate(1, per=1.0)])(take)
    with pytest.raises(ValueError, match="cannot have a Limit beside batch=: concurrency= is the number of batches at once"):
        Mesh().actor(batch=Batch(2, 1.0), gates=[Rate(1, per=1.0), Limit(1)])(take)
    with pytest.raises(ValueError, match=r"keeps values apart and in order itself: say Batch\(\.\.\., by=\.\.\.\)"):
        Mesh().actor(batch=Batch(2, 1.0), by=len)(take)


@pytest.mark.parametrize(
    "options, text",
    [
        ({"grase": 5.0}, "unknown mesh option 'grase' (did you mean 'grace'?)"),
        ({"observer": ()}, "unknown mesh option 'observer' (did you mean 'observers'?)"),
        ({"xyz": 1}, "unknown mesh option 'xyz'"),
        ({"provide": {}}, "provide is an option of mesh.configure, not of Mesh: write mesh.provide(Type, factory)"),
    ],
)
def test_an_unknown_option_of_a_mesh(options: dict[str, Any], text: str):
    """The error names the one that was meant."""
    with pytest.raises(TypeError) as caught:
        Mesh("shop", **options)
    assert str(caught.value) == text
