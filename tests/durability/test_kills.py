"""What holds for a mesh with a store whose process is killed at any moment, again and again.

These tests run real processes in real time. Each moment is random and reproducible, drawn from its number. There are ten kills
in each case, unless the environment variable FLOWMESH_KILLS says how many:

    FLOWMESH_KILLS=1000 python -m pytest -rP tests/durability/test_kills.py

prints what has been counted. The truth is kept here, outside the processes: what they said (programs.py) before they died, and
what is in the file afterwards, read without a mesh.
"""

import os
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.durability.programs import LIMIT, POISONOUS, SLOTS
from tests.durability.reading import bodies_in, look_into
from tests.durability.stage import Life, Stage

KILLS = int(os.environ.get("FLOWMESH_KILLS", "10"))
LIFE = 0.2
"""Seconds after which a process is killed, at most."""
STARTS = 0.2
"""So many of them are killed while they start."""
CASES = pytest.mark.parametrize(
    "backend, level", [("asyncio", "power"), ("asyncio", "process"), ("trio", "power"), ("trio", "process")]
)
SOME_CASES = pytest.mark.parametrize("backend, level", [("asyncio", "power"), ("trio", "process")])

pytestmark = pytest.mark.timeout(60 + 10 * KILLS)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The path of a file that is not there yet."""
    return tmp_path / "shop.db"


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """Where the programs run."""
    with Stage() as stage:
        yield stage


def lives(*case: str) -> Iterator[Life]:
    """Yield the processes that are to be killed: most of them at work, some at their start."""
    for turn in range(KILLS):
        chance = random.Random(" ".join((*case, str(turn))))
        yield Life(turn, chance.random() * LIFE, is_grown=chance.random() > STARTS)


def ids(lines: list[list[str]], word: str) -> list[str]:
    """Return what was said with this word."""
    return [line[1] for line in lines if line[0] == word]


def live(stage: Stage, program: str, life: Life, store: Path, case: tuple[str, str], **wishes: Any) -> list[list[str]]:
    """Run a program for a life, and return what it said; nothing but the signal may have ended it."""
    backend, level = case
    lines, code = stage.run(program, life, store=str(store), backend=backend, level=level, turn=life.turn, **wishes)
    assert code == (0 if life.seconds is None else -9), lines[-3:]
    return lines


@CASES
def test_no_message_is_lost_and_no_output_doubled(stage: Stage, store: Path, backend: str, level: str) -> None:
    """What was confirmed is handled; a second handling is marked as one, and there are few; each has one output."""
    confirmed, handled = set[str](), defaultdict[str, list[str]](list)
    for life in [*lives("work", backend, level), Life(KILLS)]:
        lines = live(stage, "work", life, store, (backend, level), is_last=life.seconds is None)
        confirmed.update(ids(lines, "confirmed"))
        for _, number, redelivered, attempt in [line for line in lines if line[0] == "handled"]:
            handled[number].append(redelivered)
            assert attempt == "1"
    outputs = Counter(bodies_in(store, "done"))
    repeated = sum(len(flags) - 1 for flags in handled.values())
    print(
        f"{backend}, {level}: {KILLS} kills, {len(confirmed):,} confirmed, {len(confirmed - handled.keys())} lost, "
        f"{repeated} handled again, {sum(map(len, handled.values())) - repeated:,} handled, {outputs.total():,} outputs"
    )
    assert confirmed <= handled.keys()
    assert [number for number, flags in handled.items() if "0" in flags[1:]] == []
    assert repeated <= KILLS * 2 * SLOTS
    assert [number for number, count in outputs.items() if count > 1] == []
    assert outputs.keys() == handled.keys()
    assert bodies_in(store, "handle") == []


@SOME_CASES
def test_fan_out_is_all_or_nothing(stage: Stage, store: Path, backend: str, level: str) -> None:
    """A message is in all eight mailboxes of an exchange or in none, and in all once it has been confirmed."""
    confirmed = set[str]()
    for life in lives("fan", backend, level):
        lines = live(stage, "fan", life, store, (backend, level))
        confirmed.update(ids(lines, "confirmed"))
    found = [bodies_in(store, f"reader {number}") for number in range(8)]
    print(f"{backend}, {level}: {KILLS} kills, {len(confirmed):,} confirmed, {len(found[0]):,} in each of 8 mailboxes")
    assert all(sorted(bodies) == sorted(found[0]) for bodies in found)
    assert len(found[0]) == len(set(found[0]))
    assert confirmed <= set(found[0])


@SOME_CASES
def test_ack_outputs_and_saved_state_are_all_or_nothing(stage: Stage, store: Path, backend: str, level: str) -> None:
    """After every kill the state that was saved is the number of outputs, and of messages that have gone."""
    confirmed = saved = 0
    for life in lives("count", backend, level):
        lines = live(stage, "count", life, store, (backend, level))
        confirmed += len(ids(lines, "confirmed"))
        assert ids(lines, "saved") in ([], [str(saved)])  # What the actor was given back.
        with look_into(store) as (_, contents):
            state = contents.kept.get(("saved", "counter"))
        saved = 0 if state is None else msgspec.msgpack.decode(state)["number"]
        assert bodies_in(store, "out") == list(range(1, saved + 1))
        left = len(bodies_in(store, "counter"))
        assert confirmed <= saved + left <= confirmed + life.turn + 1
    print(f"{backend}, {level}: {KILLS} kills, {confirmed:,} confirmed, counted to {saved:,}")


@SOME_CASES
def test_each_due_time_is_entered_once(stage: Stage, store: Path, backend: str, level: str) -> None:
    """A deferred message enters once, not early, however often the process dies and wherever the wall clock jumps."""
    confirmed, early, furthest = set[str](), list[str](), 0.0
    chance = random.Random(f"jumps {backend} {level}")
    for life in [*lives("later", backend, level), Life(KILLS)]:
        is_last = life.seconds is None
        jump = 7200.0 if is_last else chance.choice((-3600.0, 0.0, 3600.0))
        lines = live(stage, "later", life, store, (backend, level), jump=jump, is_last=is_last)
        confirmed.update(ids(lines, "confirmed"))
        # What entered while the clock was ahead may be handled when it is so no more.
        furthest = max(furthest, jump)
        early += [line[1] for line in lines if line[0] == "handled" and float(line[3]) + furthest - jump < -0.001]
    entered = Counter(body["id"] for body in bodies_in(store, "due"))
    print(f"{backend}, {level}: {KILLS} kills, {len(confirmed):,} confirmed, {entered.total():,} entered")
    assert confirmed <= entered.keys()
    assert [id for id, count in entered.items() if count > 1] == []
    assert early == []
    with look_into(store) as (_, contents):
        assert contents.timers == {}


@pytest.mark.parametrize("ending", ["kill", "exit"])
@pytest.mark.parametrize("slots, is_slow", [(1, False), (4, False), (4, True)])
@SOME_CASES
def test_message_that_ends_its_process_is_a_dead_letter(
    stage: Stage, store: Path, backend: str, level: str, slots: int, ending: str, is_slow: bool
) -> None:
    """It ends as many processes as `max_deliveries` says, and its neighbours are handled, none of them as a dead letter."""
    handled, dead, codes = defaultdict[str, list[str]](list), list[list[str]](), list[int]()
    while len(codes) <= LIMIT:
        lines, code = stage.run(
            "poison",
            Life(len(codes)),
            store=str(store),
            backend=backend,
            level=level,
            slots=slots,
            ending=ending,
            is_first=not codes,
            is_slow=is_slow,
        )
        codes.append(code)
        dead += [line[1:] for line in lines if line[0] == "dead"]
        for line in [line for line in lines if line[0] == "handled"]:
            handled[line[1]].append(line[2])
    assert codes == [-9 if ending == "kill" else 3] * LIMIT + [0]
    assert dead == [[str(POISONOUS), "delivery_limit"]]
    assert set(map(int, handled)) == set(range(20))
    assert len(handled[str(POISONOUS)]) == LIMIT
    assert [number for number, flags in handled.items() if "0" in flags[1:]] == []
