"""A store against a model: any batches and reads, with orderly ends and crashes in between.

A crash is what the file and its log are at a moment when everything given has been confirmed, or has not: they are copied, and
the copy is opened, as after a kill.
"""

import shutil
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flowmesh._core.records import LAST_PLACE, PLACE_BITS, Contents, Line, Row, Trial, line_of, lines_of, number_of, place_of
from flowmesh.errors import StoreError
from flowmesh.stores import SQLiteStore
from flowmesh.stores.inspecting import check
from tests.stores.giving import EVERYTHING, batch_of, read_now

NAMES = {1: "one", 2: "two", 3: "three"}
LINES = [line_of(mailbox, priority) for mailbox in NAMES for priority in (0, 3)]
KEYS = [(kind, key) for kind in ("once", "rate") for key in ("a", "b")]


@dataclass
class Model:
    """What a store holds."""

    mailboxes: dict[int, str] = field(default_factory=dict)
    lines: dict[int, Line] = field(default_factory=dict)
    copies: dict[int, bytes] = field(default_factory=dict)
    trials: dict[int, Trial] = field(default_factory=dict)
    timers: dict[int, bytes] = field(default_factory=dict)
    last_timer: int = 0
    kept: dict[tuple[str, str], bytes] = field(default_factory=dict)

    def line(self, line: int, *, placed: int = 0, marked: int | None = None, copies: int = 0) -> None:
        """Change what is known of a line."""
        known = self.lines.get(line, Line())
        self.lines[line] = Line(max(known.placed, placed), known.marked if marked is None else marked, known.copies + copies)

    def end(self, number: int) -> None:
        """End a copy."""
        self.trials.pop(number, None)
        if self.copies.pop(number, None) is not None:
            self.line(number >> PLACE_BITS, copies=-1)

    def contents(self) -> Contents:
        """Return what `open` says."""
        mailboxes = {name: number for number, name in self.mailboxes.items()}
        return Contents(mailboxes, dict(self.lines), dict(self.timers), self.last_timer, dict(self.kept))


class StoreMachine(RuleBasedStateMachine):
    """Rules give batches without waiting; what is confirmed is compared when somebody reads, or after a restart."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.generation = 0
        self.model = Model()
        self.store = SQLiteStore(Path(self.folder.name) / "0.db", durability="process", reserve=0)
        self.waiting: list[Future[StoreError | None]] = []
        self.places = dict.fromkeys(LINES, 0)
        self.timer = 0

    @initialize()
    def begin(self) -> None:
        """Open it, and give the mailboxes their numbers."""
        self.store.open()
        self.give(mailboxes=list(NAMES.items()))
        self.model.mailboxes = dict(NAMES)

    def give(self, *puts: tuple[int, bytes], **changes: Any) -> None:
        """Append a batch."""
        batch, said = batch_of(*puts, **changes)
        self.store.append(batch)
        self.waiting.append(said)

    def settle(self) -> None:
        """Wait until everything is confirmed."""
        for said in self.waiting:
            assert said.result(30) is None
        self.waiting.clear()

    @rule(
        lines=st.lists(st.sampled_from(LINES), max_size=5),
        body=st.binary(max_size=40),
        drops=st.integers(0, 3),
        data=st.data(),
        marked=st.booleans(),
    )
    def turn(self, lines: list[int], body: bytes, drops: int, data: st.DataObject, *, marked: bool) -> None:
        """One turn: copies enter, others end, others are tried, a mark is set, a timer and values change."""
        puts: list[tuple[int, bytes]] = []
        ended = sorted(self.model.copies)[:: data.draw(st.integers(1, 3))][:drops]
        for line in lines:
            self.places[line] += data.draw(st.integers(1, 2))
            puts.append((number_of(line, self.places[line]), body))
        living = [number for number in self.model.copies if number not in ended]
        tried = data.draw(st.lists(st.sampled_from(living), max_size=2, unique=True)) if living else []
        trials = [(number, Trial(data.draw(st.integers(0, 3)), marked=marked)) for number in tried]
        marks = {line: self.places[line] for line in lines[:1]} if marked else {}
        self.timer += 1
        timers: list[tuple[int, bytes | None]] = (
            [(self.timer, body)] if marked else [(number, None) for number in self.model.timers]
        )
        kept = [(*data.draw(st.sampled_from(KEYS)), data.draw(st.none() | st.binary(max_size=5)))]
        self.give(*puts, drops=ended, trials=trials, marks=marks, timers=timers, kept=kept)
        for number, record in puts:
            self.model.copies[number] = record
            self.model.line(number >> PLACE_BITS, placed=place_of(number), copies=1)
        self.model.trials.update(trials)
        for number in ended:
            self.model.end(number)
        for line, place in marks.items():
            self.model.line(line, marked=place)
        for id, record in timers:
            self.model.last_timer = max(self.model.last_timer, id)
            if record is None:
                self.model.timers.pop(id, None)
            else:
                self.model.timers[id] = record
        for kind, key, value in kept:
            if value is None:
                self.model.kept.pop((kind, key), None)
            else:
                self.model.kept[kind, key] = value

    @rule(mailbox=st.sampled_from(sorted(NAMES)))
    def purge(self, mailbox: int) -> None:
        """All copies of a mailbox end."""
        lines = lines_of(mailbox)
        ends = (number_of(lines[0], 0), number_of(lines[-1], LAST_PLACE))
        self.give(sweeps=[ends])
        for number in [number for number in self.model.copies if ends[0] <= number <= ends[1]]:
            self.model.end(number)

    @rule(mailbox=st.sampled_from(sorted(NAMES)))
    def make_anew(self, mailbox: int) -> None:
        """A mailbox goes, and comes again: two batches that may be in one group."""
        self.give(mailboxes=[(mailbox, None)])
        self.give(mailboxes=[(mailbox, NAMES[mailbox])])
        lines = lines_of(mailbox)
        for number in [number for number in self.model.copies if number >> PLACE_BITS in lines]:
            self.model.end(number)
        for line in lines:
            self.model.lines.pop(line, None)

    @rule(limit=st.integers(1, 5), line=st.sampled_from(LINES), following=st.booleans())
    def read(self, limit: int, line: int, *, following: bool) -> None:
        """Copies are read in order, whole, with what is known of them, and marked."""
        first = number_of(line, 2) if following else EVERYTHING[0]
        rows = read_now(self.store, first=first, limit=limit)
        expected = [number for number in sorted(self.model.copies) if number >= first][:limit]
        assert rows == [Row(number, self.model.copies[number], self.model.trials.get(number)) for number in expected]
        for number in expected:
            known = self.model.lines[number >> PLACE_BITS]
            self.model.line(number >> PLACE_BITS, marked=max(known.marked, place_of(number)))

    @rule()
    def restart(self) -> None:
        """An orderly end confirms everything, and everything is there."""
        self.store.close()
        self.settle()
        assert self.store.open() == self.model.contents()

    @rule()
    def crash(self) -> None:
        """A kill when all is confirmed: all is there, though the log was not carried over."""
        self.settle()
        old = self.store
        self.generation += 1
        path = Path(self.folder.name) / f"{self.generation}.db"
        shutil.copy(old.path, path)
        shutil.copy(f"{old.path}-wal", f"{path}-wal")
        old.close()
        self.store = SQLiteStore(path, durability="process", reserve=0)
        assert self.store.open() == self.model.contents()

    @precondition(lambda self: len(self.waiting) > 3)
    @rule()
    def wait(self) -> None:
        """Everything is confirmed in its turn."""
        self.settle()

    @invariant()
    def confirmed_in_order(self) -> None:
        """None is confirmed before one that was given earlier."""
        done = [said.done() for said in reversed(self.waiting)]
        assert done == sorted(done)

    def teardown(self) -> None:
        """What is left is sound."""
        self.store.close()
        assert check(self.store.path).is_sound
        self.folder.cleanup()


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(stateful_step_count=30)
