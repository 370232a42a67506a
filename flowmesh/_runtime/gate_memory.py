"""What a store keeps of gates: the values of `Once`, and the times of `Rate`.

It is written with the commit of the turn that it comes from, so a handler that was interrupted has claimed nothing, and its
copy may try again.  What does not matter any more is taken out of the store.  Everything else that gates know is about
handlers of this process, or about copies, which lie in their mailbox.

A value is kept if it is a lasting one.  What is known of any other ends with the process.
"""

import functools
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from flowmesh._core.commits import Ack, Keep, Settle
from flowmesh._core.entry import Entry
from flowmesh._core.gates import Gates
from flowmesh._runtime.cell import Cell
from flowmesh._runtime.ground import Ground, Phase
from flowmesh._runtime.lasting import LASTING, is_lasting, packed, unpacked

__all__ = ["GATE", "GateMemory"]

GATE: Final = "gate"
"""The kind of what is kept: by actor, gate and value."""
CORRECTED: Final = 0.001
"""Seconds by which something may be kept for too long: more says that a clock was set back, and is put right."""


class Remembered(Struct, frozen=True, array_like=True):
    """What is kept of one value at one gate. `until`: wall-clock seconds."""

    actor: str
    number: int
    gate: str
    value: Any
    until: float


class GateMemory:
    """What the gates of a mesh's actors remember, while it has a store."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._left: dict[str, list[Remembered]] = {}  # by actor, until it is declared
        self._named: set[tuple[str, int]] = set()  # gates whose values cannot be kept, which has been said

    # What was kept

    def begin(self) -> None:
        """Take what came back from the store; what is over is taken out of it. The mesh is about to run."""
        ledger, wall = self._ground.ledger, self._ground.now() + self._ground.wall_offset
        self._left.clear()
        over: list[Keep] = []
        for kind, key in [which for which in ledger.kept if which[0] == GATE]:
            try:
                found = msgspec.msgpack.decode(ledger.kept.pop((kind, key)), type=Remembered)
                value = unpacked(found.value)
            except ValueError:
                continue  # A newer version knows what it is.
            if found.until <= wall:
                over.append(Keep(GATE, key, None))
            else:
                self._left.setdefault(found.actor, []).append(replace(found, value=value))
        self._write(over)

    def adopt(self, cell: Cell) -> None:
        """Let the gates of an actor know what was kept of them. Nothing without a store."""
        ground, gates = self._ground, cell.gates
        if ground.ledger.journal is None or gates is None or not gates.lasting:
            return
        for state in gates.lasting.values():
            state.forgotten = []
        gates.on_forgotten = functools.partial(self._forget, cell, gates)
        now, offset = ground.now(), ground.wall_offset
        changes: list[Keep | None] = []
        for found in sorted(self._left.pop(cell.name, ()), key=lambda found: found.until):
            state = gates.lasting.get(found.number)
            if state is None or type(state.policy).__name__ != found.gate:
                changes.append(_keep(found, is_over=True))
                continue
            until = state.recall(found.value, found.until - offset, now) + offset
            if until < found.until - CORRECTED:
                changes.append(_keep(replace(found, until=until)))
        self._write(changes)
        ground.ledger.admission.watch(gates, now)

    def leave(self, cell: Cell) -> None:
        """Keep in mind what the gates of an actor know that is stopped: it may be declared anew."""
        gates, offset = cell.gates, self._ground.wall_offset
        if gates is None or gates.on_forgotten is None or self._ground.phase is Phase.STOPPED:
            return  # At the next start all of it comes back from the store.
        self._left[cell.name] = [
            Remembered(cell.name, number, type(state.policy).__name__, value, until + offset)
            for number, state in gates.lasting.items()
            for value, until in state.known()
            if is_lasting(value)
        ]

    # What is to be kept

    def keeps(self, cell: Cell, gates: Gates, settles: Sequence[Settle]) -> list[Keep]:
        """Return what is to be written with the commit of a turn; what it has claimed ends with `Admission.end`, after that."""
        keeps = self._taken(cell, gates)
        offset = self._ground.wall_offset
        for settle in settles:
            entry = settle.item
            ticket = entry.gated if isinstance(entry, Entry) else None
            if ticket is None or not ticket.has_started or ticket.gates is not gates:
                continue
            assert isinstance(entry, Entry)
            for number, state in gates.lasting.items():
                value = ticket.values[number]
                until = state.lasting(value, entry, is_done=isinstance(settle.verdict, Ack))
                if until is None:
                    continue
                gate = type(state.policy).__name__
                keep = _keep(Remembered(cell.name, number, gate, value, until + offset))
                if keep is None:
                    self._name_unkept(cell, number, gate, value)
                else:
                    keeps.append(keep)
        return keeps

    def _taken(self, cell: Cell, gates: Gates) -> list[Keep]:
        """Return what is to be taken out of the store: values that gates have forgotten."""
        keeps: list[Keep] = []
        for number, state in gates.lasting.items():
            if state.forgotten:
                gate = type(state.policy).__name__
                over = (_keep(Remembered(cell.name, number, gate, value, 0.0), is_over=True) for value in state.forgotten)
                keeps += [keep for keep in over if keep is not None]
                state.forgotten.clear()
        return keeps

    def _forget(self, cell: Cell, gates: Gates) -> None:
        self._write(self._taken(cell, gates))

    def _write(self, changes: Iterable[Keep | None]) -> None:
        keeps = [keep for keep in changes if keep is not None]
        if keeps:
            self._ground.ledger.commit(*keeps, now=self._ground.now())

    def _name_unkept(self, cell: Cell, number: int, gate: str, value: Any) -> None:
        if (cell.name, number) not in self._named:
            self._named.add((cell.name, number))
            self._ground.log.warning(
                "actor %r: by= of its %s gives a %s, which a store cannot give back: what it knows of that ends with the "
                "process; let it return %s (said once)",
                cell.name,
                gate,
                type(value).__qualname__,
                LASTING,
            )


def _keep(found: Remembered, *, is_over: bool = False) -> Keep | None:
    """Return what keeps this, by a key of bounded length, or takes it out of the store; None if its value is not kept."""
    if not is_lasting(found.value):
        return None
    found = replace(found, value=packed(found.value))
    value = msgspec.msgpack.encode(found.value)
    key = f"{found.actor}/{found.number}/{hashlib.blake2b(value, digest_size=16).hexdigest()}"
    return Keep(GATE, key, None if is_over else msgspec.msgpack.encode(found))
