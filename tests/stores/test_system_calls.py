"""A process that is killed, or whose disk fails, at any of the system calls by which a store changes its files.

At the level "power" it is killed at every one of them. At "process", and for errors, the calls of one name are sampled, unless
`FLOWMESH_STORE_SIZE` is greater than 1: so many times as many are taken.
"""

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowmesh.stores import inspecting, schema
from tests.stores import traced_child
from tests.stores.tracing import CHANGING, Told, Tracer, calls_of, examine, tracer

SIZE = int(os.environ.get("FLOWMESH_STORE_SIZE", "1"))
SAMPLE = 15 * SIZE

pytestmark = [
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def traced() -> Iterator[Tracer]:
    """A server of runs."""
    with tracer() as started:
        yield started


@pytest.fixture(autouse=True)
def next_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Open with the version that a run brings its file to."""
    steps = (*schema.STEPS, traced_child.NEXT_STEP)
    monkeypatch.setattr(schema, "STEPS", steps)
    monkeypatch.setattr(inspecting, "STEPS", steps)


def count_calls(traced: Tracer, folder: Path, level: str, *names: str) -> Counter[str]:
    """Run it undisturbed and count its calls by name, as the thread that makes most of them sees it."""
    folder.mkdir()
    names = names or CHANGING
    status = traced.run(folder, level, "-e", f"trace={','.join(names)}", "-o", str(folder / "trace"))
    assert status == 0
    assert Told((folder / "told").read_text()).words[-1] == "end"
    threads: dict[str, Counter[str]] = {}
    for name, line in calls_of((folder / "trace").read_text()):
        threads.setdefault(line.split()[0], Counter())[name] += 1
    return Counter({name: max(counted[name] for counted in threads.values()) for name in names})


def sample(calls: int, most: int) -> range:
    """Return the numbers of so many of the calls, or a few more."""
    return range(1, calls + 1, max(1, calls // most))


@pytest.mark.parametrize("level, most", [("power", 10_000), ("process", SAMPLE)])
def test_a_kill_at_any_call_loses_nothing(traced: Tracer, tmp_path: Path, level: str, most: int) -> None:
    """Whatever was confirmed is there, whole and unaltered, and the file is sound, also between two versions."""
    runs = 0
    for name, calls in count_calls(traced, tmp_path / "whole", level).items():
        for number in sample(calls, most):
            folder = tmp_path / f"{name}-{number}"
            folder.mkdir()
            traced.run(
                folder, level, "-e", f"trace={name}", "-e", f"inject={name}:signal=SIGKILL:when={number}", "-o", "/dev/null"
            )
            told = Told((folder / "told").read_text() if (folder / "told").exists() else "")
            assert "end" not in told.words, (name, number)
            assert examine(folder / "shop.db", told) == [], (name, number)
            shutil.rmtree(folder)
            runs += 1
    print(f"{runs} kills")
    assert runs > 30


FAULTS = [
    ("pread64", "EIO"),
    ("pwrite64", "EIO"),
    ("pwrite64", "ENOSPC"),
    ("fsync", "EIO"),
    ("fdatasync", "EIO"),
    ("fdatasync", "ENOSPC"),
    ("ftruncate", "EIO"),
    ("ftruncate", "ENOSPC"),
    ("fallocate", "ENOSPC"),
]


@pytest.mark.parametrize("name, error", FAULTS)
def test_a_failing_call_is_never_confirmed(traced: Tracer, tmp_path: Path, name: str, error: str) -> None:
    """What was confirmed is there; after an error that is not a full disk everything fails until the store is opened anew."""
    runs = failed = 0
    calls = count_calls(traced, tmp_path / "whole", "power", name)[name]
    for number in sample(calls, SAMPLE):
        folder = tmp_path / f"{name}-{number}"
        folder.mkdir()
        traced.run(
            folder, "power", "-e", f"trace={name}", "-e", f"inject={name}:error={error}:when={number}", "-o", "/dev/null"
        )
        told = Told((folder / "told").read_text())
        assert "went on" not in told.words, number
        failed += "fail" in told.words
        assert examine(folder / "shop.db", told) == [], number
        shutil.rmtree(folder)
        runs += 1
    print(f"{runs} times {error} from {name}, of which {failed} were told")
    assert runs > 0
    assert failed > 0 or error == "ENOSPC"  # A full disk is not told when what is written needs no more of it.
