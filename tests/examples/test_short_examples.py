"""Each short example prints what its docstring promises, on both backends, in virtual time."""

from collections.abc import Callable
from pathlib import Path
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
def test_batched_writer(printed: Printed, backend: Backend) -> None:
    """Full batches at once, the rest in time; a row that the database refuses is the only one that is not stored."""
    assert printed("batched_writer", backend) == [
        "99 stored by now: a batch of 100, because of size",
        "199 stored by now: a batch of 100, because of size",
        "249 stored by now: a batch of 50, because of within",
        "refused: Reading(id=42, celsius=-300.0) (CHECK constraint failed: celsius > -273.15)",
    ]


@pytest.mark.parametrize("backend", BACKENDS)
def test_door(printed: Printed, backend: Backend) -> None:
    """A knock at the locked door waits; the wrong code changes nothing; the open door shuts by itself."""
    assert printed("door", backend) == [
        "the door is closed",
        "the door is open",
        "the door is open",
        "welcome bob",
        "nobody came for 30 s",
        "the door is closed",
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
def test_cron_report(printed: Printed, backend: Backend) -> None:
    """Nine o'clock stays nine o'clock when the clocks change; a report knows when it was due, how the one before ended."""
    assert printed("cron_report", backend) == [
        "Fri 27 Mar 09:00 CET is 08:00 UTC",
        "Mon 30 Mar 09:00 CEST is 07:00 UTC",
        "report (today, the one before: None): 2 sold for 42",
        "report (today, the one before: acked): 0 sold for 0",
        "2 fired, 0 skipped, 0 missed",
    ]


@pytest.mark.parametrize("backend", BACKENDS)
def test_ask_with_deadline(printed: Printed, backend: Backend) -> None:
    """An answer in time is returned; at the asker's deadline the nested ask ends too, although it allowed more."""
    lines = printed("ask_with_deadline", backend)
    assert lines[0] == "12 pieces of tea, 3.50 each"
    assert sorted(lines[1:]) == ["no answer about saffron after 1.0 s", "stock stops looking for saffron"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_tracing(printed: Printed, backend: Backend) -> None:
    """Each delivery is a span: a child of its sender, or linked to where it came from; what a handler opens is its child."""
    assert sorted(printed("tracing", backend)) == [
        "call the bank: child, ok",
        "process charge: child, retried",
        "process charge: linked to process charge, ok",
        "process place: child, ok",
        "process remind: linked to process place, ok",
        "request: root, ok",
    ]


@pytest.mark.parametrize("backend", BACKENDS)
def test_totals(printed: Printed, backend: Backend) -> None:
    """State is kept from message to message, and the thing that is provided is closed after the actor has left."""
    assert printed("totals", backend) == ["so far: 132", "the ledger is closed with [100, 132]"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_bank_accounts(printed: Printed, backend: Backend) -> None:
    """An account that was put away opens with what it had, and a transfer arrives."""
    assert printed("bank_accounts", backend) == [
        "Account[ann] opens with 0",
        "ann has 70 left",
        "Account[bob] opens with 0",
        "Account[bob] opens with 30",
        "bob has 20 left",
        "Account[ann] opens with 70",
    ]


@pytest.mark.parametrize("backend", BACKENDS)
def test_mailer(printed: Printed, backend: Backend) -> None:
    """What failed is rolled back and tried again; the mailer is left before its database is closed."""
    assert printed("mailer", backend) == [
        "connected to the mail server",
        "disconnected",
        "sent: ann@example.org eve@example.org bob@example.org",
    ]


@pytest.mark.parametrize("backend", BACKENDS)
def test_supervised_ingest(printed: Printed, backend: Backend) -> None:
    """Each break of the feed and the garbled line cost one restart; every line counts once, and state is not lost."""
    assert printed("supervised_ingest", backend) == [
        "the parser begins with 0",
        "the parser ends with 7",
        "the parser begins with 7",
        "the parser ends with 12",
        "restarts: 3, dead letters: 1",
    ]


@pytest.mark.parametrize("backend", BACKENDS)
def test_middleware(printed: Printed, backend: Backend) -> None:
    """The mesh's layers stand around all, an actor's own inside them; one that does not call on answers in its place."""
    assert printed("middleware", backend) == [
        "sell took 0.5 s (request A1, attempt 1)",
        "sold a kite to ada (request A1, attempt 1)",
        "sell took 0.0 s (request B2, attempt 1)",
        "bob owes us money",
    ]


@pytest.mark.parametrize("backend", BACKENDS)
def test_breaker(printed: Printed, backend: Backend) -> None:
    """While the bank is away one message probes at a time, the others are held and use up no attempts; nothing is lost."""
    assert printed("breaker", backend) == [
        "0.1 s: no answer for ada, attempt 1",
        "0.2 s: no answer for bob, attempt 1",
        "1.0 s: the breaker is open, 5 payments are held",
        "3.3 s: no answer for ada, attempt 2",
        "6.4 s: no answer for ada, attempt 3",
        "9.5 s: paid ada",
        "9.6 s: paid bob",
        "9.7 s: paid cyd",
        "9.8 s: paid dan",
        "9.9 s: paid eve",
        "5 paid, 0 lost",
    ]


@pytest.mark.parametrize("backend", BACKENDS)
def test_crawler(printed: Printed, backend: Backend) -> None:
    """Each page is asked for once, however many links lead to it, and no sooner than the rate allows."""
    assert printed("crawler", backend) == [
        "/ /coffee /mint /tea",
        "4 requests, 0.1 s apart or more; 3 links to pages that had been seen",
    ]


@pytest.mark.parametrize("backend", BACKENDS)
def test_durable_orders(
    example: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str], tmp_path: Path, backend: Backend
) -> None:
    """The second run on a file handles what the first has left, the third what the second has, and the sum goes on."""
    for _ in range(3):
        run(example("durable_orders").main, tmp_path / "orders.db", backend=backend)
    left, taken = "{} orders are left from before", "3 orders taken in: power"
    assert capsys.readouterr().out.splitlines() == [
        left.format(0),
        taken,
        left.format(3),
        "order 0: 9.50 in the till after 1 orders",
        "order 1: 19.00 in the till after 2 orders",
        "order 2: 28.50 in the till after 3 orders",
        taken,
        left.format(3),
        "order 0: 38.00 in the till after 4 orders",
        "order 1: 47.50 in the till after 5 orders",
        "order 2: 57.00 in the till after 6 orders",
        taken,
    ]


@pytest.mark.parametrize(
    "name",
    [
        "publish_subscribe",
        "work_queue",
        "retry_and_replay",
        "supervised_ingest",
        "deferred_and_periodic",
        "durable_orders",
        "ask_with_deadline",
        "breaker",
        "crawler",
        "batched_writer",
        "bank_accounts",
        "mailer",
        "middleware",
        "totals",
        "tracing",
    ],
)
def test_short_examples_are_short(example: Callable[[str], ModuleType], name: str) -> None:
    """An example has fewer than 60 lines, and begins by saying what it shows and how to run it."""
    module = example(name)
    assert module.__file__ is not None
    with open(module.__file__, encoding="utf-8") as file:
        assert sum(1 for _ in file) < 60
    assert f"python examples/{name}.py" in (module.__doc__ or "")
