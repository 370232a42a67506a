"""Which task runs here, and whether a task is a part of another one's work: started in a task group that the other waits for.

trio knows each task's nursery, and anyio the task that opened each of its groups.  A task that was started in another way
(`asyncio.create_task`, `asyncio.gather`) says nothing about who waits for it, and counts as nobody's.
"""

import asyncio
from typing import Any

import anyio
import trio

__all__ = ["is_part_of", "task_here"]


def task_here() -> Any:
    """Return the running task, as the backend has it."""
    return trio.lowlevel.current_task() if trio.lowlevel.in_trio_task() else asyncio.current_task()


def is_part_of(task: Any, other: Any) -> bool:
    """Whether `task` is `other`, or runs in a task group of it, or in one of such a task's, and so on."""
    if task is other:
        return True
    if isinstance(task, trio.lowlevel.Task):
        nursery = task.parent_nursery
        while nursery is not None:
            if nursery.parent_task is other:
                return True
            nursery = nursery.parent_task.parent_nursery
        return False
    parents = {info.id: info.parent_id for info in anyio.get_running_tasks()}
    step: int | None = id(task)
    while step is not None and step != id(other):
        step = parents.get(step)
    return step is not None
