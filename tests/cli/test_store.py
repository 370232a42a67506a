"""`flowmesh run --store` and `flowmesh store`: a file, run on, looked at, and mended."""

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowmesh.stores import SQLiteStore

SHOP = """
    from flowmesh import ActorContext, Mesh

    mesh = Mesh("shop", grace=0.0)

    @mesh.actor
    async def sell(number: int) -> None:
        print("sold", number)

    @mesh.source
    async def customers(ctx: ActorContext) -> None:
        if ctx.statistics.mailboxes["sell"].ready:
            await mesh.idle()
        else:
            sell.pause()
            for number in range(3):
                await sell.tell(number)
        await sell.tell(9, delay=3600)
        mesh.stop()
"""

Write = Callable[[str, str], Path]
Flowmesh = Callable[..., Any]


@pytest.fixture
def shop(write: Write, flowmesh: Flowmesh) -> Path:
    """The file of a shop with three messages and a deferred one."""
    write("shop.py", SHOP)
    write("again.py", SHOP)
    assert flowmesh("run", "shop.py", "--store", "shop.db").code == 75
    return Path("shop.db")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_run_goes_on_with_what_is_stored(shop: Path, flowmesh: Flowmesh, backend: str) -> None:
    """What one run left is handled by the next one with the same --store."""
    outcome = flowmesh("run", "again.py", "--store", str(shop), "--backend", backend)
    assert outcome.code == 0
    assert [line for line in outcome.out.splitlines() if line.startswith("sold")] == ["sold 0", "sold 1", "sold 2"]


def test_run_on_a_store_in_use_is_1(shop: Path, flowmesh: Flowmesh) -> None:
    """The owner's pid is named, without a traceback."""
    owner = SQLiteStore(shop)
    owner.open()
    outcome = flowmesh("run", "again.py", "--store", str(shop))
    owner.close()
    assert outcome.code == 1
    assert f"is in use by process {os.getpid()}" in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("store", [":memory:", "sqlite:///shop.db", ""])
def test_run_on_what_is_no_path_is_2(write: Write, folder: Path, flowmesh: Flowmesh, store: str) -> None:
    """What names a database elsewhere is refused, without a traceback; no file is made, and the mesh does not run."""
    write("shop.py", SHOP)
    outcome = flowmesh("run", "shop.py", "--store", store)
    assert (outcome.code, outcome.out) == (2, "")
    assert "path" in outcome.err
    assert "Traceback" not in outcome.err
    assert [path.name for path in folder.iterdir() if path.suffix != ".py" and path.name != "__pycache__"] == []


@pytest.mark.parametrize(
    "typed", [("store", "info"), ("store", "check"), ("dead", "list"), ("dead", "purge", "--all"), ("dead", "replay", "--all")]
)
def test_file_in_use_is_2(shop: Path, flowmesh: Flowmesh, typed: tuple[str, ...]) -> None:
    """A file that a process has open is left alone; the process is named."""
    owner = SQLiteStore(shop)
    owner.open()
    outcome = flowmesh(*typed, str(shop))
    owner.close()
    assert outcome.code == 2
    assert f"is in use by process {os.getpid()}" in outcome.err
    assert outcome.out == ""


@pytest.mark.parametrize(
    "typed", [("store", "info"), ("store", "check"), ("dead", "list"), ("dead", "purge", "--all"), ("dead", "replay", "--all")]
)
def test_file_that_is_not_there_is_2(folder: Path, flowmesh: Flowmesh, typed: tuple[str, ...]) -> None:
    """It is named, and not made."""
    outcome = flowmesh(*typed, "none.db")
    assert outcome.code == 2
    assert "none.db: there is no such file" in outcome.err
    assert not list(folder.iterdir())


def test_info(shop: Path, flowmesh: Flowmesh) -> None:
    """It says what is in the file: each mailbox with its messages, and the deferred ones."""
    outcome = flowmesh("store", "info", str(shop))
    assert outcome.code == 0
    assert "\nsell                      3\n" in outcome.out
    assert "deferred messages: 1" in outcome.out


def test_check_of_a_sound_file(shop: Path, flowmesh: Flowmesh) -> None:
    """A file that is as it was written is sound."""
    outcome = flowmesh("store", "check", str(shop))
    assert outcome.code == 0
    assert outcome.out.endswith("sound\n")


def test_check_names_what_is_damaged(shop: Path, flowmesh: Flowmesh) -> None:
    """A row that is not what was written is named, and the exit code is 1."""
    damage(shop)
    outcome = flowmesh("store", "check", str(shop))
    assert outcome.code == 1
    assert "copies: the row " in outcome.out


def test_one_row_is_one_row(shop: Path, flowmesh: Flowmesh) -> None:
    """What is counted is in the singular where there is one of it."""
    damage(shop)
    flowmesh("store", "salvage", str(shop), "new.db")
    outcome = flowmesh("store", "check", "new.db")
    assert "\n1 row in quarantine: damaged, and kept aside\nsound, but for what is in quarantine\n" in outcome.out
    assert outcome.code == 1


def test_salvage(shop: Path, flowmesh: Flowmesh) -> None:
    """What is good comes into a new file, what is damaged into its quarantine, and the old file stays."""
    damage(shop)
    before = shop.read_bytes()
    outcome = flowmesh("store", "salvage", str(shop), "new.db")
    assert outcome.code == 1
    assert "copies        2" in outcome.out
    assert "in the new store's quarantine: 1 damaged row\n" in outcome.err
    assert shop.read_bytes() == before
    assert "\nsell                      2\n" in flowmesh("store", "info", "new.db").out


def test_salvage_overwrites_nothing(shop: Path, flowmesh: Flowmesh) -> None:
    """A target that is there is refused."""
    outcome = flowmesh("store", "salvage", str(shop), "shop.py")
    assert outcome.code == 2
    assert "is there already" in outcome.err


def damage(store: Path) -> None:
    """Change the record of one copy."""
    with sqlite3.connect(store) as connection:
        connection.execute("UPDATE copies SET record = x'00' WHERE number = (SELECT min(number) FROM copies)")
    connection.close()
