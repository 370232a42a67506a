"""A store in one SQLite file: the public face, and what holds for it in a fork."""

import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

from flowmesh._core.records import Batch, Contents, Row
from flowmesh.errors import ForkedProcessError, StoreError
from flowmesh.stores.connecting import leak
from flowmesh.stores.files import Ownership, check_place, open_private_file, sync_folder
from flowmesh.stores.room import fitting_reserve
from flowmesh.stores.writer import Reading, Writer

__all__ = ["SQLiteStore"]

_LEVELS: Final = ("power", "process")


class SQLiteStore:
    """Keeps what outlives a mesh in one file, and needs nothing else.

    Beside the file there are others of its name: `-wal` (what has been written since the last checkpoint, a part of the store),
    `.lock` (who owns it) and `-reserve` (room for the day when the disk is full). All are readable by their user only.

    Args:
        path: of the file; made when it is not there. Its folder must be, on a local disk.
        durability: "power", each confirmed batch is fsynced; "process", it survives the end of the process however that
            comes, and the last ones may be lost when the machine loses power. Neither ever leaves half a batch.
        reserve: bytes to keep back on the disk, so that what ends is written even when it is full. None: 8 MiB, less on
            a small disk, or one that is nearly full. 0: none; a full disk then stops everything.

    Raises:
        ValueError: the path is ":memory:" or a URL; the level or the reserve makes no sense.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, durability: Literal["power", "process"] = "power", reserve: int | None = None
    ) -> None:
        if durability not in _LEVELS:
            raise ValueError(f"durability must be one of {', '.join(_LEVELS)}, not {durability!r}")
        if reserve is not None and reserve < 0:
            raise ValueError(f"reserve must be zero or more bytes, not {reserve!r}")
        _check_path(os.fsdecode(path))
        self.path: Final = Path(path).absolute()
        self._durability: Final[Literal["power", "process"]] = durability
        self._reserve = reserve
        self._writer: Writer | None = None
        self._ownership: Ownership | None = None
        self._give: Callable[[Batch | Reading], None] = self._refuse
        self._is_fork = False

    def __repr__(self) -> str:
        return f"SQLiteStore({str(self.path)!r}, durability={self._durability!r})"

    @property
    def durability(self) -> Literal["power", "process"]:
        """What a confirmed batch survives."""
        return self._durability

    def open(self) -> Contents:
        """Own the file and say what is in it, as `Store.open`."""
        self._check_not_forked()
        if self._writer is not None:
            raise StoreError(f"store {self.path} is open already: close it first")
        check_place(self.path)
        ownership = Ownership(self.path)
        ownership.take()
        try:
            os.close(open_private_file(self.path))
            sync_folder(self.path)
            reserve = fitting_reserve(self.path) if self._reserve is None else self._reserve
            writer = Writer(self.path, durability=self._durability, reserve=reserve)
            contents = writer.start()
        except OSError as error:
            ownership.release()
            raise StoreError(f"store {self.path}: it cannot be opened ({error.strerror})") from error
        except BaseException:
            ownership.release()
            raise
        self._ownership = ownership
        self._writer = writer
        self._give = writer.give
        _OPEN.add(self)
        return contents

    def append(self, batch: Batch, /) -> None:
        """Write a batch, soon, as `Store.append`."""
        self._give(batch)

    def read(self, first: int, last: int, /, *, limit: int, done: Callable[[list[Row] | StoreError], None]) -> None:
        """Read copies in their turn, as `Store.read`."""
        self._give(Reading(first, last, limit, done))

    def close(self) -> None:
        """Let go of the file, as `Store.close`."""
        self._check_not_forked()
        writer, self._writer = self._writer, None
        if writer is None:
            return
        self._give = self._refuse
        _OPEN.discard(self)
        writer.stop()
        ownership, self._ownership = self._ownership, None
        if ownership is not None:
            ownership.release()

    def leave_to_parent(self) -> None:
        """In a fork of the owner: touch nothing that is its, now or when this process ends."""
        self._is_fork = True
        self._give = self._refuse
        if self._ownership is not None:
            self._ownership.leave_to_parent()
        if self._writer is not None and self._writer.connection is not None:
            leak(self._writer.connection)

    def _refuse(self, item: Batch | Reading) -> None:
        del item
        self._check_not_forked()
        raise StoreError(f"store {self.path} is not open: open it first")

    def _check_not_forked(self) -> None:
        if self._is_fork:
            raise ForkedProcessError(
                f"store {self.path} belongs to the process that this one (pid {os.getpid()}) is a fork of:"
                " use it there, or start this one without fork"
            )


def _check_path(path: str) -> None:
    """Refuse what names a database elsewhere, and would be a file of that name here."""
    if path == ":memory:":
        raise ValueError("a store's path must be that of a file, not ':memory:': write store=flowmesh.MemoryStore()")
    scheme, is_url, _ = path.partition("://")
    if is_url:  # Named without the rest of it, where a password may be.
        raise ValueError(
            f"a store's path must be that of a file, not a URL ({scheme}://...): write store='shop.db'; a broker is no store"
        )


# Not what is open, but where a fork finds it: the kernel copies a process without asking its objects.
_OPEN: Final[weakref.WeakSet[SQLiteStore]] = weakref.WeakSet()


def _leave_all_to_parent() -> None:
    for store in _OPEN:
        store.leave_to_parent()
    _OPEN.clear()


os.register_at_fork(after_in_child=_leave_all_to_parent)
