"""A process that forks others which put a store through its life, for a tracer to kill, to disturb or to record them.

    python traced_child.py

Reads lines: `run FOLDER LEVEL` forks one that waits, and answers with its pid; `go` lets it run, and answers with its exit
status when it has ended. It is a server so that Flowmesh is imported once.

What a run has done it writes into the file `told` of its folder, line by line, each before (`try`) or after (`put`, `drop`,
`fail`) the store has confirmed it; nothing that is done to the store's files can harm that.
"""

import ctypes
import os
import sys
from concurrent.futures import Future
from pathlib import Path
from typing import Final

from flowmesh._core.records import Batch, line_of, number_of
from flowmesh.errors import StoreError, StoreFull
from flowmesh.stores import SQLiteStore, inspecting, schema

LINE: Final = line_of(1, 0)
RESERVE: Final = 128 << 10  # So small that the log is carried over several times.
ROUNDS: Final = 8
PUTS: Final = 4

NEXT_STEP: Final = (
    "ALTER TABLE kept RENAME TO older",
    "CREATE TABLE kept (kind TEXT, key TEXT, value BLOB, checksum INTEGER, PRIMARY KEY (kind, key)) WITHOUT ROWID",
    "INSERT INTO kept SELECT * FROM older",
    "DROP TABLE older",
    "CREATE TABLE counted AS SELECT count(*) AS copies FROM copies",
)
"""What a next version might do to a file of this one."""


def body_of(place: int) -> bytes:
    """Return what the copy at this place is put with."""
    return f"{place} ".encode() * 400


def add_a_version() -> None:
    """Let this process know one version more than there is."""
    schema.STEPS = inspecting.STEPS = (*schema.STEPS, NEXT_STEP)


class Life:
    """One run: puts, drops, values, checkpoints, a restart with a migration, and an orderly end."""

    def __init__(self, folder: Path, level: str) -> None:
        self.store = SQLiteStore(folder / "shop.db", durability="power" if level == "power" else "process", reserve=RESERVE)
        self.told = os.open(folder / "told", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.place = 0

    def tell(self, *words: object) -> None:
        """Write a line that outlives this process."""
        os.write(self.told, (" ".join(map(str, words)) + "\n").encode())

    def open(self) -> None:
        """Open the store; when that fails, once more."""
        try:
            self.store.open()
        except StoreError as error:
            self.tell("fail", type(error).__name__)
            self.store.open()

    def give(self, *, puts: list[int], drops: list[int], value: int) -> None:
        """Write one batch; after an error that breaks the store, open it anew."""
        said: Future[StoreError | None] = Future()
        batch = Batch(said.set_result)
        batch.mailboxes.append((1, "one"))
        batch.puts.extend((number_of(LINE, place), body_of(place)) for place in puts)
        batch.drops.extend(number_of(LINE, place) for place in drops)
        batch.kept.append(("round", "last", str(value).encode()))
        self.tell("try", value, "put", *puts, "drop", *drops)
        self.store.append(batch)
        error = said.result(20)
        if error is None:
            self.tell("done", value)
            return
        self.tell("fail", type(error).__name__)
        if not isinstance(error, StoreFull):
            again: Future[StoreError | None] = Future()
            self.store.append(Batch(again.set_result))
            self.tell("broken" if again.result(20) is not None else "went on")
            self.store.close()
            self.open()

    def live(self) -> None:
        """Do all of it."""
        value = 0
        for step in range(2):
            self.open()
            for _ in range(ROUNDS):
                value += 1
                puts = list(range(self.place + 1, self.place + PUTS + 1))
                self.place = puts[-1]
                drops = [place - 10 for place in puts[:2] if place > 10]
                self.give(puts=puts, drops=drops, value=value)
            self.store.close()
            if step == 0:
                add_a_version()
        self.tell("end")


def main() -> None:
    """Serve."""
    gate = (0, 0)
    child = 0
    for line in sys.stdin:
        match line.split():
            case ["run", folder, level]:
                gate = os.pipe()
                child = os.fork()
                if child == 0:
                    os.close(gate[1])
                    ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1))  # Anybody of this user may trace it.
                    os.read(gate[0], 1)
                    try:
                        Life(Path(folder), level).live()
                    except BaseException as error:
                        print(repr(error), file=sys.stderr, flush=True)
                        os._exit(1)
                    os._exit(0)
                os.close(gate[0])
                print(child, flush=True)
            case ["go"]:
                os.close(gate[1])
                print(os.waitpid(child, 0)[1], flush=True)
            case _:
                raise ValueError(line)


if __name__ == "__main__":
    main()
