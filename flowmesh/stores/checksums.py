"""The checksum that every stored row carries, over all of it: its table, its key and its record.

CRC-32, because what it has to find is damage, not malice: a flipped bit, a torn page, a row under another row's key. It finds
every error of up to 32 bits in a row and any other but one in 4·10⁹, and costs 0.1 µs; a 64-bit hash of the standard library
costs six times that, on the way of each message. The table and the key are what the sum starts from, so that a record that
turns up at another place does not pass.
"""

from collections.abc import Sequence
from typing import Any, Final
from zlib import crc32

__all__ = [
    "COLUMNS",
    "COPIES",
    "LAST_TIMER",
    "MAILBOXES",
    "META",
    "TIMERS",
    "TRIALS",
    "is_right",
    "of_line",
    "of_record",
    "of_value",
    "with_checksums",
]

# What the sum of each table's rows starts from: any constants that differ.
COPIES: Final = 0x636F7069
TRIALS: Final = 0x74726961
TIMERS: Final = 0x74696D65
MAILBOXES: Final = 0x6D61696C
KEPT: Final = 0x6B657074
LINES: Final = 0x6C696E65
META: Final = 0x6D657461

LAST_TIMER: Final = "last timer"
"""The key in `meta` of the highest timer's id ever given."""

COLUMNS: Final = {
    "mailboxes": "number, name, checksum",
    "lines": "line, placed, marked, copies, checksum",
    "copies": "number, record, checksum",
    "trials": "number, record, checksum",
    "timers": "id, record, checksum",
    "kept": "kind, key, value, checksum",
    "meta": "key, value, checksum",
}
"""The columns of each table, as `is_right` wants them."""

_RECORDS: Final = {"copies": COPIES, "trials": TRIALS, "timers": TIMERS}
_PRIME: Final = 4_294_967_291
"""The greatest below 2³²: no flipped bit of a key of 63 leaves the remainder as it was."""


def of_record(table: int, key: int, record: bytes) -> int:
    """Return the checksum of a row whose key is a number."""
    return crc32(record, key % _PRIME ^ table)


def of_value(kind: str, key: str, value: bytes) -> int:
    """Return the checksum of a kept value. No kind has a NUL in it, so that no other kind and key read the same."""
    return crc32(value, crc32(f"{kind}\0{key}".encode(), KEPT))


def of_line(line: int, placed: int, marked: int, copies: int) -> int:
    """Return the checksum of a line's row."""
    return crc32(b"%d %d %d %d" % (line, placed, marked, copies), LINES)


def with_checksums(copies: Sequence[tuple[int, bytes]]) -> list[int | bytearray]:
    """Return number, record and checksum of each copy, one after another: what an INSERT of many rows is given."""
    fields: list[int | bytearray] = []
    for number, record in copies:
        # A bytearray, because sqlite3 asks for an adapter of everything but that, numbers and text: three times the copying.
        fields += number, bytearray(record), crc32(record, number % _PRIME ^ COPIES)
    return fields


def is_right(table: str, row: Sequence[Any]) -> bool:
    """Return whether a row, with the columns that COLUMNS names, is what was written; it may hold anything."""
    *columns, checksum = row
    try:
        match table:
            case "copies" | "trials" | "timers":
                key, record = columns
                return type(record) is bytes and of_record(_RECORDS[table], key, record) == checksum
            case "mailboxes":
                number, name = columns
                return of_record(MAILBOXES, number, name.encode()) == checksum
            case "lines":
                return of_line(*columns) == checksum
            case "kept":
                return type(columns[2]) is bytes and of_value(*columns) == checksum
            case _:
                key, value = columns
                return key == LAST_TIMER and of_record(META, value, LAST_TIMER.encode()) == checksum
    except (TypeError, AttributeError):
        return False
