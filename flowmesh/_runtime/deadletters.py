"""`mesh.dead_letters`: copies that could not be handled and that no dead-letter exchange took."""

from typing import get_args

from flowmesh._core.commits import Enter, Purge, Replay
from flowmesh._core.entry import Entry, State
from flowmesh._core.numbers import MailboxStatistics
from flowmesh._runtime.engine import Engine
from flowmesh._runtime.handover import Handover
from flowmesh.errors import MailboxFull
from flowmesh.message import DeathReason, Message

__all__ = ["DeadLetters"]


class DeadLetters:
    """The dead letters of one mesh: a mailbox of its own (10,000, the oldest make room; each that does is logged)."""

    __slots__ = ("_engine",)

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __len__(self) -> int:
        return self._engine.ground.ledger.dead_letters.ready

    def list(self, *, mailbox: str | None = None, reason: DeathReason | None = None, limit: int = 100) -> list[Message]:
        """Return dead letters, the oldest first; `message.deaths[0]` says where, why and when.

        Args:
            mailbox: only those that died in the mailbox of this name.
            reason: only those that died for this reason.
            limit: at most so many.

        Raises:
            ValueError: there is no such reason.
        """
        return [entry.message for entry in self._find((), mailbox, reason, limit)]

    async def replay(self, *ids: str, mailbox: str | None = None, limit: int | None = None) -> int:
        """Put dead letters back into the mailboxes they died in, with fresh attempts and their history.

        Waits for room in full `wait` mailboxes. A letter stays, and is named in the log, when its mailbox is gone, or is a
        full `drop_newest` one, which would leave it out. A full `drop_oldest` mailbox makes room by its own rule.
        Cancellation: each letter is either still here or back in its mailbox.

        Args:
            *ids: message ids; none means all.
            mailbox: only those that died in the mailbox of this name.
            limit: at most so many.

        Returns:
            how many were put back.

        Raises:
            MailboxFull: a `reject` mailbox is full; the letters before it have been put back.
            StoreError: a letter cannot be stored where it goes, and stays; the letters before it have been put back.
            NotRunning, MeshStopped: the mesh takes no messages now.
            TypeError: an id is no text.
        """
        engine, ground = self._engine, self._engine.ground
        ground.check_sender()
        replayed = 0
        for entry in self._find(ids, mailbox, None, limit):
            if ground.budget <= 0 or ground.now() >= ground.turn_ends:
                await ground.breathe()
                ground.check_sender()
            ground.budget -= 1
            name = entry.message.deaths[0].mailbox
            target = ground.router.find_mailbox(name)
            if target is not None and engine.room.is_blocked(target):
                await engine.room.wait(target)
            try:
                replayed += await self._replay_one(entry, name, replayed)
            finally:
                if target is not None:
                    engine.room.look_again(target)
        return replayed

    async def _replay_one(self, entry: Entry, name: str, before: int) -> bool:
        """Put one letter back, if it is still here and its mailbox takes it; `before`: how many were put back already."""
        ground = self._engine.ground
        target = ground.router.find_mailbox(name)
        if entry.state is not State.READY:
            return False  # Somebody else has replayed or purged it meanwhile.
        if target is None:
            ground.log.warning("dead letter %s stays: its mailbox %r is gone", entry.message.id, name)
            return False
        if not target.has_room():
            if target.options.overflow == "reject":
                raise MailboxFull(
                    f"mailbox {name!r} is full; dead letters put back: {before}; the others stay: replay again later",
                    message=entry.message,
                    mailbox=name,
                )
            if target.options.overflow == "drop_newest":
                ground.log.warning("dead letter %s stays: its mailbox %r is full", entry.message.id, name)
                return False
        handover = None if ground.ledger.journal is None else Handover(ground)
        commit = ground.ledger.commit(Replay(entry, target), now=ground.now(), then=handover)
        ground.tell(commit)
        if handover is not None:
            await handover.wait()
        return any(isinstance(change, Enter) and change.mailbox is target for change in commit.changes)

    def purge(self, *, mailbox: str | None = None, reason: DeathReason | None = None) -> int:
        """Forget dead letters for good, and return how many.

        Args:
            mailbox: only those that died in the mailbox of this name.
            reason: only those that died for this reason.

        Raises:
            NotRunning: the mesh has a store, and does not run.
            StoreError: its store takes nothing more.
            ForkedProcessError: it has a store, and this is a fork of its process.
        """
        ground = self._engine.ground
        self._engine.storing.check_open("what rests among the dead letters")
        if ground.ledger.journal is not None:
            ground.ledger.journal.check_process()
        entries = self._find((), mailbox, reason, None)
        purge = Purge(ground.ledger.dead_letters, only=tuple(entries))
        ground.ledger.commit(purge, now=ground.moment()[0], strict=True)
        return len(entries)

    def statistics(self) -> MailboxStatistics:
        """Return the numbers of this moment."""
        return self._engine.ground.ledger.dead_letters.statistics(*self._engine.ground.moment())

    @staticmethod
    def _check(ids: tuple[object, ...], reason: object) -> None:
        for id in ids:
            if not isinstance(id, str):
                raise TypeError(f"replay takes the ids of messages, such as message.id, not {id!r}")
        if reason is not None and reason not in get_args(DeathReason):
            raise ValueError(f"reason must be one of {', '.join(get_args(DeathReason))}, not {reason!r}")

    def _find(self, ids: tuple[str, ...], mailbox: str | None, reason: DeathReason | None, limit: int | None) -> "list[Entry]":
        self._check(ids, reason)
        found: list[Entry] = []
        for entry in self._engine.ground.ledger.dead_letters.entries():
            if limit is not None and len(found) >= limit:
                break
            death = entry.message.deaths[0]
            if (
                (not ids or entry.message.id in ids)
                and (mailbox is None or death.mailbox == mailbox)
                and (reason is None or death.reason == reason)
            ):
                found.append(entry)
        return found
