"""The stores that the shared tests run on."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flowmesh.stores import MemoryStore, SQLiteStore
from tests.stores.giving import AnyStore


@pytest.fixture(params=["memory", "process", "power"])
def reopened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], AnyStore]]:
    """A function that closes the store, if there is one, and gives it back to be opened again, as another process would."""
    memory = MemoryStore()
    opened: list[AnyStore] = []

    def again() -> AnyStore:
        if opened:
            opened.pop().close()
        opened.append(memory if request.param == "memory" else SQLiteStore(tmp_path / "shop.db", durability=request.param))
        return opened[0]

    yield again
    for store in opened:
        store.close()
