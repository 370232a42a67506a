"""The files of a store: who may read them, and who owns them.

A store at `shop.db` has beside it `shop.db-wal` (SQLite's log), `shop.db.lock` (says who owns it) and `shop.db-reserve` (room
for the day when the disk is full). All are the user's own (0600), whatever the umask is. The lock is the kernel's, on a file of
its own that is never deleted: it ends with its process however that ends, and nobody can hold a lock on a file that is gone.
"""

import contextlib
import errno
import fcntl
import os
import socket
import stat
import time
from pathlib import Path
from typing import Final

from flowmesh.errors import StoreError, StoreLocked

__all__ = ["Ownership", "check_place", "open_private_file", "sync_folder"]

_OWN: Final = 0o600
_SUFFIXES: Final = ("", "-wal", "-shm", "-journal", "-reserve", ".lock")
_PATIENCE: Final = 0.5
"""Seconds to wait for the name of an owner that has just taken the lock."""
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


def check_place(path: Path) -> None:
    """Refuse a place where a store would not be safe, or that is something else.

    Raises:
        StoreError: there is no such folder; everybody may replace its files; a file of the store is a link, no file, or,
            where everybody may make files, somebody else's.
    """
    try:
        folder = path.parent.stat()
    except OSError as error:
        raise StoreError(f"store {path}: its folder cannot be used ({error.strerror}): make it first") from error
    shared = bool(folder.st_mode & stat.S_IWOTH)
    if shared and not folder.st_mode & stat.S_ISVTX:
        raise StoreError(
            f"store {path}: everybody may replace files in {path.parent}: `chmod o-w` it, or choose another folder"
        )
    for suffix in _SUFFIXES:
        try:
            found = os.lstat(f"{path}{suffix}")
        except FileNotFoundError:
            continue
        except OSError as error:
            raise StoreError(f"store {path}: {path}{suffix} cannot be looked at ({error.strerror})") from error
        if stat.S_ISLNK(found.st_mode):
            raise StoreError(f"store {path}: {path}{suffix} is a symbolic link: give the path that it leads to")
        if not stat.S_ISREG(found.st_mode):
            raise StoreError(f"store {path}: {path}{suffix} is not a file: choose another path")
        if shared and found.st_uid != os.geteuid():
            raise StoreError(
                f"store {path}: {path}{suffix} belongs to another user, in a folder where everybody may make files"
            )


def open_private_file(path: Path) -> int:
    """Open a file, made if it is not there, and readable by nobody else in either case; return its descriptor.

    Raises:
        StoreError: it cannot be made or opened.
    """
    try:
        number = os.open(path, _FLAGS, _OWN)
    except OSError as error:
        raise StoreError(f"store: {path} cannot be opened ({error.strerror})") from error
    try:
        # The umask may have taken something away, and an older file may give more.
        if stat.S_IMODE(os.fstat(number).st_mode) != _OWN:
            os.fchmod(number, _OWN)
    except OSError as error:
        os.close(number)
        raise StoreError(f"store: {path} cannot be made private ({error.strerror}): it belongs to another user") from error
    return number


def sync_folder(path: Path) -> None:
    """Make what files there are in the folder as safe as what is in them."""
    number = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(number)
    finally:
        os.close(number)


class Ownership:
    """The lock on a store. One process has it at a time, and one store within that process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = Path(f"{path}.lock")
        self._file: int | None = None

    def take(self) -> None:
        """Become the owner, at once or not at all.

        Raises:
            StoreLocked: somebody else is, `.pid`.
            StoreError: the lock's file cannot be used.
        """
        until = time.monotonic() + _PATIENCE
        while not self._try():
            pid, said = self._owner()
            # An owner that has just come has not yet written its name, and whose name is there has gone.
            if (pid is None or not _is_alive(pid)) and time.monotonic() < until:
                time.sleep(0.01)
                continue
            who = f"process {pid}{said}" if pid is not None else "another process"
            raise StoreLocked(
                f"store {self.path} is in use by {who}: stop that one or wait until it has ended, or give this one a store "
                "of its own",
                pid=pid,
            )

    def release(self) -> None:
        """Let go of it; the lock's file stays. Idempotent."""
        number, self._file = self._file, None
        if number is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(number, 0)
            os.close(number)

    def leave_to_parent(self) -> None:
        """In a fork: close this process's share of the lock, so that it ends with the owner."""
        number, self._file = self._file, None
        if number is not None:
            os.close(number)

    def _try(self) -> bool:
        number = open_private_file(self.lock)
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Somebody may have deleted the file between the two: what is locked then is nobody's.
            is_there = self.lock.stat().st_ino == os.fstat(number).st_ino
            if is_there:
                os.ftruncate(number, 0)
                with contextlib.suppress(OSError):  # A full disk has no room for a name.
                    os.pwrite(number, f"{os.getpid()} {socket.gethostname()} {time.time():.0f}\n".encode(), 0)
                self._file = number
                return True
        except BlockingIOError:
            pass
        except FileNotFoundError:
            pass
        except OSError as error:
            os.close(number)
            if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP):
                raise StoreError(f"store {self.path}: its file system has no locks: choose a local disk") from error
            raise StoreError(f"store {self.path}: {self.lock} cannot be locked ({error.strerror})") from error
        os.close(number)
        return False

    def _owner(self) -> tuple[int | None, str]:
        try:
            words = self.lock.read_text(encoding="utf-8", errors="replace").split()
            pid = int(words[0])
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(words[2])))
        except (OSError, ValueError, IndexError):
            return None, ""
        return pid, f" (on {words[1]}, since {since})"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
