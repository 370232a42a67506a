"""Run the life of a store under strace: kill it, disturb it or record it at a system call."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from flowmesh._core.records import LAST_PLACE
from flowmesh.stores import SQLiteStore
from flowmesh.stores.inspecting import check
from tests.stores import traced_child
from tests.stores.giving import LINE, read_now

__all__ = ["CHANGING", "Told", "Tracer", "examine", "tracer"]

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]

CHANGING: Final = ("openat", "pwrite64", "fsync", "fdatasync", "ftruncate", "fallocate", "unlink", "fchmod", "fcntl", "flock")
"""The calls by which a store changes its files, or what others may do with them."""


class Tracer:
    """A server that runs lives of stores, each under a strace of its own."""

    def __init__(self, server: "subprocess.Popen[str]") -> None:
        self._server = server

    def run(self, folder: Path, level: str, *options: str) -> int:
        """Run one life in a folder, under strace with these options; return its exit status."""
        pid = self._ask(f"run {folder} {level}")
        command = ["strace", "-f", "-p", pid, *options]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as strace:
            assert strace.stderr is not None
            attached = strace.stderr.readline()
            assert "attached" in attached, attached
            status = int(self._ask("go"))
            strace.stderr.read()
        return status

    def _ask(self, line: str) -> str:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(line + "\n")
        self._server.stdin.flush()
        return self._server.stdout.readline().strip()


@contextmanager
def tracer() -> Iterator[Tracer]:
    """Start a server, for as long as the context lasts."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(HERE / "traced_child.py")]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        yield Tracer(server)
        assert server.stdin is not None
        server.stdin.close()


class Told:
    """What a run has told before it ended: batches that it tried, and whether they were confirmed."""

    def __init__(self, text: str) -> None:
        self.tried: dict[int, tuple[list[int], list[int]]] = {}
        self.done: list[int] = []
        self.words: list[str] = []
        for line in text.splitlines():
            words = line.split()
            self.words.append(words[0])
            if words[0] == "try":
                cut = words.index("drop")
                self.tried[int(words[1])] = ([int(word) for word in words[3:cut]], [int(word) for word in words[cut + 1 :]])
            elif words[0] == "done":
                self.done.append(int(words[1]))


def examine(path: Path, told: Told) -> list[str]:
    """Open what a run has left behind and say what is not as it was confirmed; nothing, if all is well.

    A batch that was tried last may be there or not, as a whole.
    """
    wrong: list[str] = []
    store = SQLiteStore(path, durability="process", reserve=0)
    contents = store.open()
    rows = read_now(store)
    store.close()
    if not (report := check(path)).is_sound:
        wrong += report.problems
    places = {row.number & LAST_PLACE for row in rows}
    wrong += [f"{row.number} is altered" for row in rows if row.record != traced_child.body_of(row.number & LAST_PLACE)]
    there = {value for value, (puts, _) in told.tried.items() if places & set(puts)}
    # What is put is dropped by a later batch, so a batch is known by what is left of it.
    expected: set[int] = set()
    last = int(contents.kept.get(("round", "last"), b"0"))
    for value, (puts, drops) in told.tried.items():
        if value in told.done or value in there or value == last:
            expected |= set(puts)
            expected -= set(drops)
    wrong += [f"{place} is lost" for place in sorted(expected - places)]
    wrong += [f"{place} has come back" for place in sorted(places - expected)]
    if told.done and last < max(told.done):
        wrong.append(f"the value {max(told.done)} is lost: it is {last}")
    if places and contents.lines[LINE].placed < max(places):
        wrong.append("a place may be given twice")
    return wrong


_CALL: Final = re.compile(r"^\d+ +(\w+)\(")


def calls_of(trace: str) -> Iterator[tuple[str, str]]:
    """Yield the name of each call of a recorded run, with its line."""
    for line in trace.splitlines():
        if found := _CALL.match(line):
            yield found[1], line
