"""A real store under virtual time: the clock does not jump while the store's thread is at work."""

from pathlib import Path

import anyio
import pytest

from flowmesh import Mesh
from flowmesh.stores import SQLiteStore

pytestmark = pytest.mark.anyio


async def test_time_stands_still_while_the_store_writes(tmp_path: Path):
    """A publish into a file takes no virtual time at all, though a timer is set that time could jump to."""
    mesh = Mesh("shop", store=SQLiteStore(tmp_path / "shop.db", durability="process"))
    mesh.mailbox("work")
    async with mesh, anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, 3600)
        began = anyio.current_time()
        for number in range(20):
            assert (await mesh.exchange("").publish(number, "work")).durability == "process"
        assert anyio.current_time() - began < 1
        group.cancel_scope.cancel()


async def test_a_crash_image_of_a_file_is_taken_up(tmp_path: Path):
    """What one mesh left in a file is handled by another one, in order, from disk and window alike."""
    path, seen = tmp_path / "shop.db", list[int]()
    first = Mesh("shop", store=str(path))
    first.mailbox("work")
    async with first:
        await first.exchange("").publish_many([(number, "work") for number in range(1200)])
    second = Mesh("shop", store=str(path))

    @second.actor
    async def work(number: int) -> None:
        seen.append(number)

    async with second:
        await second.idle()
    assert seen == list(range(1200))
