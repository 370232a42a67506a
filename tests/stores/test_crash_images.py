"""A machine that loses power: the disk holds what was fsynced, and of all else anything between all and nothing, even halves.

A run is recorded with everything that it writes and syncs. At many moments of it the disk is put together as it may have been,
and opened. `FLOWMESH_STORE_SIZE` multiplies how many.
"""

import os
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from flowmesh.stores import inspecting, schema
from tests.stores import traced_child
from tests.stores.tracing import Told, Tracer, examine, tracer

SIZE = int(os.environ.get("FLOWMESH_STORE_SIZE", "1"))
IMAGES = 150 * SIZE
SECTOR: Final = 512
RECORDED: Final = "openat,pwrite64,write,fsync,fdatasync,ftruncate,fallocate,unlink"

pytestmark = [pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"), pytest.mark.timeout(300)]

_UNFINISHED: Final = re.compile(r"^(\d+) +(.*) <unfinished \.\.\.>$")
_RESUMED: Final = re.compile(r"^(\d+) +<\.\.\. \w+ resumed>(.*)$")
_CALL: Final = re.compile(r"^\d+ +(\w+)\((.*)\) += (-?\d+)(?:<(.*)>)?")
_TEXT: Final = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_PATH: Final = re.compile(r"^\d+<([^>]*)>")


def bytes_of(hexed: str) -> bytes:
    """Return what strace has written with -xx."""
    return bytes.fromhex(hexed.replace("\\x", ""))


def path_of(text: str) -> str:
    """Return a path that strace has written in one of its ways."""
    return bytes_of(text).decode() if text.startswith("\\x") else text


class File:
    """A file: what is on the disk, and what has been done to it since."""

    def __init__(self) -> None:
        self.synced = b""
        self.pending: list[tuple[int, bytes | None]] = []  # None: cut off, or grown, there.

    def content(self, chance: random.Random | None) -> bytes:
        """Return what is there after the crash; without chance, what has been synced."""
        content = bytearray(self.synced)
        if chance is not None:
            keep = chance.choice((0.0, 0.5, 0.9))
            for place, data in self.pending:
                if chance.random() < keep:
                    apply(content, place, tear(data, chance) if data is not None and chance.random() < 0.2 else data)
        return bytes(content)

    def sync(self) -> None:
        """Everything reaches the disk."""
        content = bytearray(self.synced)
        for place, data in self.pending:
            apply(content, place, data)
        self.synced = bytes(content)
        self.pending.clear()


def tear(data: bytes, chance: random.Random) -> bytes:
    """Return the sectors that came first."""
    return data[: chance.randrange(0, len(data) + 1, SECTOR)]


def apply(content: bytearray, place: int, data: bytes | None) -> None:
    """Write, or cut off."""
    if data is None:
        del content[place:]
        content.extend(bytes(place - len(content)))
    elif data:
        content.extend(bytes(max(0, place - len(content))))
        content[place : place + len(data)] = data


class Disk:
    """A folder: which names are on the disk, and what has been done to them since."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        self.live: dict[str, File] = {}
        self.synced: dict[str, File] = {}
        self.pending: list[tuple[str, File | None]] = []
        self.told = ""

    def play(self, call: str, arguments: str, result: int, opened: str | None) -> bool:
        """Do one recorded call; true: it changed something."""
        if result < 0:
            return False
        path = path_of(opened or "") if call == "openat" else ""
        if call == "unlink":
            path = bytes_of(_TEXT.findall(arguments)[0]).decode()
        elif call != "openat" and (found := _PATH.match(arguments)):
            path = path_of(found[1])
        if not path.startswith(self.folder):
            return False
        name = path[len(self.folder) + 1 :]
        if name == "told":
            if call == "write":
                self.told += bytes_of(_TEXT.findall(arguments)[0]).decode()
            return call == "write"
        return self._change(call, name, arguments)

    def _change(self, call: str, name: str, arguments: str) -> bool:
        match call:
            case "openat" if "O_CREAT" in arguments and name not in self.live:
                self.live[name] = File()
                self.pending.append((name, self.live[name]))
            case "unlink":
                del self.live[name]
                self.pending.append((name, None))
            case "pwrite64":
                data = bytes_of(_TEXT.findall(arguments)[0])
                self.live[name].pending.append((int(arguments.rsplit(", ", 1)[1]), data))
            case "ftruncate":
                self.live[name].pending.append((int(arguments.rsplit(", ", 1)[1]), None))
            case "fsync" | "fdatasync" if not name:
                self._sync_names(len(self.pending))
            case "fsync" | "fdatasync":
                self.live[name].sync()
            case _:
                return False
        return True

    def _sync_names(self, many: int) -> None:
        for name, file in self.pending[:many]:
            self._rename(self.synced, name, file)
        del self.pending[:many]

    @staticmethod
    def _rename(names: dict[str, File], name: str, file: File | None) -> None:
        if file is None:
            names.pop(name, None)
        else:
            names[name] = file

    def write_image(self, folder: Path, chance: random.Random | None) -> None:
        """Write what is on the disk after a crash at this moment; without chance, nothing but what has been synced."""
        names = dict(self.synced)
        for name, file in self.pending[: chance.randrange(len(self.pending) + 1) if chance else 0]:
            self._rename(names, name, file)
        for name, file in names.items():
            (folder / name).write_bytes(file.content(chance))


def calls_in(trace: str) -> Iterator[tuple[str, str, int, str | None]]:
    """Yield the recorded calls, each when it had ended."""
    begun: dict[str, str] = {}
    for line in trace.splitlines():
        whole = line
        if found := _UNFINISHED.match(line):
            begun[found[1]] = found[2]
            continue
        if found := _RESUMED.match(line):
            whole = f"{found[1]} {begun.pop(found[1])}{found[2]}"
        if found := _CALL.match(whole):
            yield found[1], found[2], int(found[3]), found[4]


@pytest.fixture(scope="module")
def traced() -> Iterator[Tracer]:
    """A server of runs."""
    with tracer() as started:
        yield started


@pytest.fixture(autouse=True)
def next_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Open with the version that a run brings its file to."""
    steps = (*schema.STEPS, traced_child.NEXT_STEP)
    monkeypatch.setattr(schema, "STEPS", steps)
    monkeypatch.setattr(inspecting, "STEPS", steps)


def losses(traced: Tracer, tmp_path: Path, level: str) -> tuple[int, list[str]]:
    """Record a run, crash it at many moments, and return how many images were opened, and what was wrong with them."""
    recorded = tmp_path / "recorded"
    recorded.mkdir()
    trace = tmp_path / "trace"
    status = traced.run(recorded, level, "-y", "-xx", "-s", "200000", "-e", f"trace={RECORDED}", "-o", str(trace))
    assert status == 0
    calls = list(calls_in(trace.read_text()))
    disk = Disk(recorded)
    moments = sum(disk.play(*call) for call in calls)
    assert {name: file.content(None) for name, file in disk.synced.items()}.keys() >= {"shop.db", "shop.db.lock"}
    assert moments > 100
    disk = Disk(recorded)
    wrong: list[str] = []
    images = 0
    stride = max(1, 2 * moments // IMAGES)
    moment = 0
    for call in calls:
        if not disk.play(*call):
            continue
        moment += 1
        if moment % stride and call[0] != "write":
            continue
        for chance in (None, random.Random(f"{level} {moment}")):
            folder = tmp_path / "image"
            folder.mkdir()
            disk.write_image(folder, chance)
            wrong += [
                f"{moment}, {'torn' if chance else 'lost'}: {each}" for each in examine(folder / "shop.db", Told(disk.told))
            ]
            shutil.rmtree(folder)
            images += 1
    return images, wrong


def test_power_loses_nothing_when_power_is_lost(traced: Tracer, tmp_path: Path) -> None:
    """What was confirmed is on the disk, whole and unaltered, whatever became of the rest."""
    images, wrong = losses(traced, tmp_path, "power")
    print(f"{images} images")
    assert wrong == []
    assert images >= IMAGES


def test_process_may_lose_the_last_ones_and_nothing_else(traced: Tracer, tmp_path: Path) -> None:
    """The same test finds losses where they are to be expected, and never half a batch or an altered record."""
    images, wrong = losses(traced, tmp_path, "process")
    print(f"{images} images, {len(wrong)} losses")
    assert wrong != []
    assert [each for each in wrong if not re.search(r"is lost|has come back|may be given twice", each)] == []
