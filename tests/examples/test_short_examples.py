"""Each short example prints what its docstring promises, on both backends, in virtual time."""

from collections.abc import Callable
from types import ModuleType

import pytest

from flowmesh.testing import BACKENDS, run
from flowmesh.testing.virtual import Backend

Printed = Callable[[str, Backend], list[str]]


@pytest.fixture
def printed(example: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]) -> Printed:
    """A function that runs an example's `main` on a backend and returns the lines that it printed."""

    def lines(name: str, backend: Backend) -> list[str]:
        run(example(name).main, backend=backend)
        return capsys.readouterr().out.splitlines()

    return lines


@pytest.mark.parametrize("backend", BACKENDS)
def test_publish_subscribe(printed: Printed, backend: Backend) -> None:
    """Each binding that matches gives one copy; a fanout exchange reaches all; nothing goes to who is not bound."""
    lines = printed("publish_subscribe", backend)
    assert sorted(lines) == [
        "diary: alarm at eu.madrid.roof",
        "eu.berlin.roof went to 2 mailboxes",
        "eu.madrid.roof went to 2 mailboxes",
        "europe notes 21.5 from eu.berlin.roof",
        "europe notes 43.0 from eu.madrid.roof",
        "siren: eu.madrid.roof is at 43.0!",
        "us.nome.cellar went to 0 mailboxes",
    ]
    notes = [line for line in lines if line.startswith("europe")]
    assert notes == sorted(notes)


@pytest.mark.parametrize("backend", BACKENDS)
def test_work_queue(printed: Printed, backend: Backend) -> None:
    """Three slots share the messages: each picture is done once, as soon as a slot was free for it."""
    assert printed("work_queue", backend) == [
        "1.0 s: boat",
        "2.0 s: dunes",
        "2.5 s: cat",
        "3.0 s: alps",
        "4.0 s: fjord",
        "4.5 s: elk",
        "11.5 seconds of work, done in 4.5",
    ]


@pytest.mark.parametrize("backend", BACKENDS)
def test_retry_and_replay(printed: Printed, backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    """A failure is tried again, then kept; a rejection is kept at once; replay gives both another chance."""
    lines = printed("retry_and_replay", backend)
    assert lines[:5] == [
        "attempt 1 to pay ada: no answer",
        "attempt 2 to pay ada: no answer",
        "attempt 3 to pay ada: no answer",
        "dead letter to bob, rejected: nothing to pay to bob",
        lines[4],
    ]
    assert lines[4].startswith("dead letter to ada, failed: ")
    assert lines[4].endswith("the bank does not answer")
    assert sorted(lines[5:7]) == ["2 replayed", "paid 120 to ada"]
    assert lines[7:] == ["still dead: ['bob']"]
    assert "the bank does not answer" in caplog.text


@pytest.mark.parametrize("backend", BACKENDS)
def test_deferred_and_periodic(printed: Printed, backend: Backend) -> None:
    """A deferred message comes at its moment, a periodic one on its beat, and sending either does not wait."""
    assert printed("deferred_and_periodic", backend) == [
        "0.0 s: the bread is in, timer set",
        "1.0 s: stir the soup",
        "1.5 s: add the salt",
        "2.0 s: stir the soup",
        "2.5 s: take the bread out",
        "3.0 s: stir the soup",
        "3.2 s: dinner",
    ]


@pytest.mark.parametrize("backend", BACKENDS)
def test_ask_with_deadline(printed: Printed, backend: Backend) -> None:
    """An answer in time is returned; at the asker's deadline the nested ask ends too, although it allowed more."""
    lines = printed("ask_with_deadline", backend)
    assert lines[0] == "12 pieces of tea, 3.50 each"
    assert sorted(lines[1:]) == ["no answer about saffron after 1.0 s", "stock stops looking for saffron"]


@pytest.mark.parametrize(
    "name", ["publish_subscribe", "work_queue", "retry_and_replay", "deferred_and_periodic", "ask_with_deadline"]
)
def test_short_examples_are_short(example: Callable[[str], ModuleType], name: str) -> None:
    """An example has fewer than 60 lines, and begins by saying what it shows and how to run it."""
    module = example(name)
    assert module.__file__ is not None
    with open(module.__file__, encoding="utf-8") as file:
        assert sum(1 for _ in file) < 60
    assert f"python examples/{name}.py" in (module.__doc__ or "")
