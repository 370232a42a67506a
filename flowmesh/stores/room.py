"""Room on the disk: a log that stays small, and a reserve for the day when the disk is full.

SQLite writes every change to its log (`-wal`) first; a checkpoint carries the log over into the file, and the log is then
written from its beginning again. Checkpoints are made here, between transactions, whenever the log's file has grown past its
bound: it is cut back to that bound after each, so its length says how much is in it.

When the disk is full, the reserve is given up. It is as large as the log may be, twice: so what is in the log can be carried
over, the log's own blocks are free for what only ends or counts something, and that goes on for good, because it needs no
further pages. What would need further pages is refused, unless there are free ones within the file. As soon as there is
room for the reserve again, all is as before.
"""

import contextlib
import errno
import os
import sqlite3
from pathlib import Path
from typing import Final

from flowmesh.errors import StoreError
from flowmesh.stores.files import open_private_file

__all__ = ["Room", "fitting_reserve"]

_RESERVE: Final = 8 << 20
_SHARE: Final = 4
"""On a small disk the reserve takes no more than this part of it, and no more than half of what is free."""
_LEAST_RESERVE: Final = 4 << 10
_LEAST_LOG: Final = 64 << 10
_MOST_LOG: Final = 4 << 20
_ANY_PAGES: Final = 1 << 30


def fitting_reserve(path: Path) -> int:
    """Return how many bytes to keep in reserve on the disk that `path` is on."""
    disk = os.statvfs(path.parent)
    reserve = Path(f"{path}-reserve")
    free = disk.f_bavail * disk.f_frsize + (reserve.stat().st_size if reserve.exists() else 0)
    return max(2 * _LEAST_LOG, min(_RESERVE, disk.f_blocks * disk.f_frsize // _SHARE, free // 2))


class Room:
    """The room that an open store has.

    `is_tight`: the disk was full, and the reserve is not there yet.

    Args:
        connection: to the file.
        path: of the file.
        reserve: its size in bytes; 0: none.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path, *, reserve: int) -> None:
        self._connection = connection
        self._path = path
        self._inode = path.stat().st_ino
        self._name, self._log_name = str(path), f"{path}-wal"
        self._reserve = Path(f"{path}-reserve")
        self._size = reserve
        self.log_bound = max(_LEAST_LOG, min(_MOST_LOG, reserve // 2)) if reserve else _MOST_LOG
        self.is_tight = False
        connection.execute(f"PRAGMA journal_size_limit = {self.log_bound}")
        connection.execute("PRAGMA wal_autocheckpoint = 0")

    def begin(self) -> None:
        """Carry over what an earlier owner has left in the log, and see to the reserve."""
        if not self.carry_over() or not self.make_reserve():
            self.tighten()

    def keep_what_fits(self) -> None:
        """Take as much of the reserve's room as there is: the log has gone with the connection, and its room with it."""
        size = self._size
        while size >= _LEAST_RESERVE and not self.make_reserve(size):
            size //= 2

    def make_reserve(self, size: int | None = None) -> bool:
        """Take the reserve's room from the disk, or a part of it; false: there is not enough."""
        size = self._size if size is None else size
        if not size:
            return True
        try:
            number = open_private_file(self._reserve)
        except StoreError:  # A full disk may have no room for the name of a file either.
            return False
        try:
            os.ftruncate(number, size)
            os.posix_fallocate(number, 0, size)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            with contextlib.suppress(OSError):
                os.ftruncate(number, 0)
            return False
        finally:
            os.close(number)
        return True

    def tighten(self) -> None:
        """The disk is full: give up the reserve, and let the file grow no more."""
        if not self.is_tight:
            self.is_tight = True
            with contextlib.suppress(FileNotFoundError):
                os.truncate(self._reserve, 0)
        self.carry_over()
        self.hold_pages()

    def relax(self) -> bool:
        """Look whether there is room again; true: all is as before."""
        if self.is_tight and self.make_reserve():
            self.is_tight = False
            self.free_pages()
        return not self.is_tight

    def hold_pages(self) -> None:
        """Let the file have no further pages."""
        (pages,) = self._connection.execute("PRAGMA page_count").fetchone()
        self._connection.execute(f"PRAGMA max_page_count = {pages}")

    def free_pages(self) -> None:
        """Let the file have as many pages as it needs."""
        self._connection.execute(f"PRAGMA max_page_count = {_ANY_PAGES}")

    def check_in_place(self) -> None:
        """See that the file is where it was: what is written to one that has been replaced is found by nobody.

        Raises:
            OSError: it is not.
        """
        if os.stat(self._name).st_ino != self._inode:  # noqa: PTH116 - a Path takes twice as long, for each transaction
            raise FileNotFoundError(errno.ENOENT, "the file has been replaced while it was in use", str(self._path))

    def bound_log(self) -> None:
        """Carry the log over if it is longer than it may be. Between transactions.

        Raises:
            OSError: the log has gone.
        """
        if os.stat(self._log_name).st_size > self.log_bound:  # noqa: PTH116 - as above
            self.carry_over()

    def carry_over(self) -> bool:
        """Carry the log over into the file; false: there is no room for that, and all of it stays in the log."""
        try:
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_FULL:
                raise
            return False
        return True
