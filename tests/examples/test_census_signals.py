"""A census that gets a SIGTERM at a random moment ends in time, and can say of every message what became of it.

These tests run real processes in real time.  Each moment is random and reproducible, drawn from its number.  There are five of
them on each backend, unless the environment variable FLOWMESH_SIGNALS says how many:

    FLOWMESH_SIGNALS=100 python -m pytest -rP tests/examples/test_census_signals.py

prints the least, the median and the greatest time from signal to exit.
"""

import json
import os
import random
import select
import signal
import statistics
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest

SIGNALS = int(os.environ.get("FLOWMESH_SIGNALS", "5"))
CHILD = Path(__file__).parent / "census_child.py"
ROOT = Path(__file__).parents[2]
LIBRARY = Path(sysconfig.get_path("stdlib"))
FOLDERS = [str(LIBRARY / name) for name in ("asyncio", "concurrent", "email", "idlelib", "importlib", "json", "logging", "xml")]
PATIENCE = 5.0
GRACES = (0.0, 0.2, 1.0)
ENDS = ("acked", "dead", "expired", "dropped", "withdrawn", "purged")


class Ending(NamedTuple):
    """How a census ended: its exit code, real seconds since the signal (or its start), its last line, and its log."""

    code: int
    seconds: float
    outcome: dict[str, Any]
    log: str


def take_census(backend: str, *, grace: float, moment: float | None) -> Ending:
    """Run a census, and send it a SIGTERM `moment` seconds after it began to run, unless it has ended by then."""
    command = [sys.executable, str(CHILD), backend, str(grace), *FOLDERS]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}  # These sources, whatever is installed.
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as child:
        try:
            assert child.stdout is not None
            assert child.stderr is not None
            assert child.stdout.readline() == "running\n"
            began = time.monotonic()
            if moment is not None:
                select.select([child.stdout], [], [], moment)  # It says nothing more before it has ended.
                began = time.monotonic()
                child.send_signal(signal.SIGTERM)
            printed, log = child.communicate(timeout=40)
            seconds = time.monotonic() - began
        finally:
            child.kill()
    assert printed, log
    return Ending(child.returncode, seconds, json.loads(printed.splitlines()[-1]), log)


def check(ending: Ending, *, grace: float) -> None:
    """Check everything that is promised of an ending."""
    mailboxes, report = ending.outcome["statistics"]["mailboxes"], ending.outcome["report"]
    assert ending.code == ending.outcome["code"]
    assert ending.code in (0, 75)
    assert ending.seconds < grace + PATIENCE
    for box in mailboxes.values():
        assert box["leased"] == box["delayed"] == 0
        assert box["entered"] == box["ready"] + sum(box[end] for end in ENDS)
    ready = {name: box["ready"] for name, box in mailboxes.items() if box["ready"]}
    assert {**report["unhandled"], **report["unconsumed"]} == ready
    assert set(report["unconsumed"]) <= {"arrivals"}
    assert report["handed_back"] <= sum(report["unhandled"].values())
    assert report["in_hand"] == 0
    assert report["deferred"] == ending.outcome["statistics"]["deferred"]
    assert report["dead_letters"] == ending.outcome["statistics"]["dead_letters"]["ready"] == mailboxes["parse"]["dead"]
    assert (ending.code == 75) == bool(report["unhandled"])
    # What was done is there: two outputs of each file that was read, in its counts exactly once.
    assert mailboxes["tally"]["entered"] == mailboxes["connect"]["entered"]
    resets = min(mailboxes["tally"]["entered"], 1)  # Before the first file, both are told to count anew.
    assert mailboxes["parse"]["acked"] + resets == mailboxes["tally"]["entered"]
    assert mailboxes["tally"]["acked"] == ending.outcome["files"] + min(mailboxes["tally"]["acked"], 1)


@pytest.mark.timeout(60 + 10 * SIGNALS)
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_census_ends_in_time_and_adds_up_whenever_it_is_told_to_stop(backend: str) -> None:
    """Wherever the signal hits it exits within grace + 5 s, with 0 or 75, and its report agrees with its statistics."""
    whole = take_census(backend, grace=0.0, moment=None)
    check(whole, grace=60)
    assert (whole.code, whole.outcome["report"]["unhandled"]) == (0, {})
    seconds: list[float] = []
    codes: list[int] = []
    for number in range(SIGNALS):
        chance = random.Random(f"{backend} {number}")
        grace, moment = GRACES[number % len(GRACES)], chance.random() * whole.seconds
        ending = take_census(backend, grace=grace, moment=moment)
        try:
            check(ending, grace=grace)
        except AssertionError:
            print(f"signal {number}: after {moment:.3f} s, grace {grace} s, {ending}")
            raise
        seconds.append(ending.seconds)
        codes.append(ending.code)
    print(
        f"{backend}: {SIGNALS} signals in a census of {whole.seconds:.2f} s; signal to exit at least {min(seconds):.3f} s, "
        f"median {statistics.median(seconds):.3f} s, at most {max(seconds):.3f} s; work was left {codes.count(75)} times"
    )
