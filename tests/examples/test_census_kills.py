"""A census with a store, killed at random moments and started again, ends with the totals of one that nothing has disturbed.

These tests run real processes in real time. There are twenty of them, unless the environment variable FLOWMESH_CENSUS_KILLS
says how many; each moment is random and reproducible, drawn from its number.
"""

import json
import os
import random
import shutil
import sysconfig
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.durability.stage import Life, Stage

KILLS = int(os.environ.get("FLOWMESH_CENSUS_KILLS", "20"))
CASES = (("asyncio", "power"), ("trio", "process"), ("asyncio", "process"), ("trio", "power"))
PACKAGES = ("concurrent", "email", "json", "logging", "urllib")


def take(stage: Stage, life: Life, case: tuple[str, str], store: Path, folder: Path) -> dict[str, Any] | None:
    """Go on with the census in the store; return its totals if it has ended."""
    backend, level = case
    totals = store.with_suffix(".json")
    lines, code = stage.run(
        "census",
        life,
        store=str(store),
        backend=backend,
        level=level,
        turn=life.turn,
        folders=[str(folder)],
        totals=str(totals),
    )
    if code == -9:
        return None
    assert code == 0, lines
    return json.loads(totals.read_bytes())


@pytest.mark.timeout(60 + 10 * KILLS)
def test_a_census_that_is_killed_and_started_again_counts_each_file_once(
    tmp_path: Path, count_independently: ModuleType
) -> None:
    """Wherever it is killed, once or twice, the census that goes on has the same totals as a plain loop."""
    folder = tmp_path / "files"
    for package in PACKAGES:
        source = Path(sysconfig.get_path("stdlib")) / package
        shutil.copytree(source, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "broken.py").write_text("def (:\n")
    counted = count_independently.count([folder])
    killed = 0
    with Stage() as stage:
        assert take(stage, Life(0), CASES[1], tmp_path / "first.db", folder) is not None  # Everything has been loaded.
        began = time.monotonic()
        whole = take(stage, Life(0), CASES[0], tmp_path / "whole.db", folder)
        seconds = time.monotonic() - began
        assert whole is not None
        assert whole["total"] == counted["total"]
        for number in range(KILLS):
            chance = random.Random(number)
            moments = [chance.random() * seconds for _ in range(chance.choice((1, 1, 2)))]
            store = tmp_path / f"{number}.db"
            for turn, moment in enumerate(moments):
                killed += take(stage, Life(turn, moment), CASES[number % 4], store, folder) is None
            taken = take(stage, Life(9), CASES[number % 4], store, folder)
            assert taken == whole, f"seed {number}, {CASES[number % 4]}, killed after {moments} s of {seconds:.2f} s"
    print(f"{killed} kills in {KILLS} censuses of {seconds:.2f} s, {whole['total']['files']} files: all totals the same")
