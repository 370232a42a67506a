"""Whose work a task is: known from task groups, and from nothing else."""

import asyncio
from typing import Any

import anyio
import pytest
import sniffio

from flowmesh._runtime.lineage import is_part_of, task_here
from flowmesh.testing import settled

pytestmark = pytest.mark.anyio


async def test_tasks_of_groups_are_part_of_who_opened_them():
    """A task of its group, and one of a group of that, however deep; neither the other way round nor beside each other."""
    tasks: dict[str, Any] = {"root": task_here()}

    async def note(name: str, *, deeper: int = 0) -> None:
        tasks[name] = task_here()
        if deeper:
            async with anyio.create_task_group() as inner:
                inner.start_soon(lambda: note(f"{name}{deeper}", deeper=deeper - 1))
        else:
            await anyio.sleep(1)

    async with anyio.create_task_group() as group:
        group.start_soon(lambda: note("one", deeper=2))
        group.start_soon(note, "other")
        await settled()
        assert sorted(tasks) == ["one", "one2", "one21", "other", "root"]
        assert all(is_part_of(task, tasks["root"]) for task in tasks.values())
        assert is_part_of(tasks["one21"], tasks["one"])
        assert is_part_of(tasks["one21"], tasks["one2"])
        assert not is_part_of(tasks["one"], tasks["one2"])
        assert not is_part_of(tasks["other"], tasks["one"])
        assert not is_part_of(tasks["root"], tasks["one"])


async def test_a_task_of_asyncios_own_says_nothing():
    """Whether anybody waits for it cannot be known."""
    if sniffio.current_async_library() != "asyncio":
        return
    task = asyncio.create_task(anyio.sleep(1))
    assert not is_part_of(task, task_here())
    await task
