"""A process that owns a store, writes to it without a pause, and forks meanwhile; the forks try whatever could do harm.

    python forking_child.py FILE FORKS

Prints how many batches were confirmed.
"""

import gc
import os
import sys
from concurrent.futures import Future
from threading import Event, Thread

from flowmesh._core.records import Batch, line_of, number_of
from flowmesh.errors import ForkedProcessError, StoreError
from flowmesh.stores import SQLiteStore


def harm(store: SQLiteStore) -> int:
    """Do everything that a fork must not do, and return how much of it was not refused."""
    calls = (
        lambda: store.append(Batch(lambda error: None)),
        lambda: store.read(0, 1, limit=1, done=lambda rows: None),
        store.close,
        store.open,
    )
    passed = 0
    for call in calls:
        try:
            call()
            passed += 1
        except ForkedProcessError:
            pass
    return passed


def main() -> None:
    """Write and fork."""
    path, forks = sys.argv[1], int(sys.argv[2])
    store = SQLiteStore(path, durability="process")
    store.open()
    enough = Event()
    confirmed = 0

    def write() -> None:
        nonlocal confirmed
        while not enough.is_set() or not confirmed:
            said: Future[StoreError | None] = Future()
            batch = Batch(said.set_result)
            batch.puts.append((number_of(line_of(1, 0), confirmed + 1), b"x" * 500))
            batch.mailboxes.append((1, "one"))
            store.append(batch)
            error = said.result(30)
            if error is not None:
                raise error
            confirmed += 1

    writer = Thread(target=write)
    writer.start()
    for number in range(forks):
        child = os.fork()
        if child == 0:
            passed = harm(store)
            if number % 5:
                os._exit(passed)
            del store
            gc.collect()
            sys.exit(passed)  # Ends as a Python process does: its objects are deleted.
        _, status = os.waitpid(child, 0)
        if status:
            enough.set()
            sys.exit(f"fork {number} ended with {status}")
    enough.set()
    writer.join()
    store.close()
    print(confirmed)


if __name__ == "__main__":
    main()
