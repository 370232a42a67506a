"""A process that forks many, which all start with the same store at once; each tells how that went, and ends.

    python racing_child.py FILE PROCESSES

One line of output per process: `own PID`, or `locked PID OWNER`.
"""

import os
import sys

from flowmesh.errors import StoreLocked
from flowmesh.stores import SQLiteStore


def race(path: str, start: int, end: int) -> str:
    """Wait for the start, try to own the store, and if that goes well keep it until the end."""
    os.read(start, 1)
    store = SQLiteStore(path, durability="process")
    try:
        store.open()
    except StoreLocked as error:
        return f"locked {os.getpid()} {error.pid}\n"
    os.write(1, f"own {os.getpid()}\n".encode())
    os.read(end, 1)
    store.close()
    return ""


def main() -> None:
    """Start them, let them go, and wait for all but one, then for that one."""
    path, processes = sys.argv[1], int(sys.argv[2])
    (start, go), (end, stop) = os.pipe(), os.pipe()
    children: list[int] = []
    for _ in range(processes):
        child = os.fork()
        if child == 0:
            os.close(go)
            os.close(stop)
            os.write(1, race(path, start, end).encode())
            os._exit(0)
        children.append(child)
    os.close(go)
    for _ in range(processes - 1):
        os.wait()
    os.close(stop)
    os.wait()


if __name__ == "__main__":
    main()
