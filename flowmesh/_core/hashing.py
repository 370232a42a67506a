"""Placement by hash: which of several bound things a value belongs to, in proportion to their weights.

Weighted rendezvous hashing (Thaler and Ravishankar, 1998; weights by Wang and Ravishankar's logarithm): each thing draws a
number from the hash of its own name and the value, exponentially distributed with its weight as the rate, and the smallest
draw wins.  So a value goes to a thing with the probability of its weight among all weights; a thing that comes takes only
what it wins, one that goes leaves only what it had, and nothing else moves.  The order in which things came does not matter.

The hash is BLAKE2b, once for the value and once for each name, and MurmurHash3's 64-bit finalizer to mix the two: the same in
every process, on every machine, in every version.  Changing it moves values between mailboxes: it is part of the promise.
"""

import hashlib
import math
from typing import Final, Generic, TypeVar

import msgspec

__all__ = ["Placement", "hashed_bytes"]

Thing = TypeVar("Thing")
_MASK: Final = (1 << 64) - 1
_SHIFT: Final = 12
"""What is left of 64 bits is what a float holds exactly with a half added: a draw is neither 0 nor 1."""
_SPAN: Final = float(1 << (64 - _SHIFT))


class Placement(Generic[Thing]):
    """Things with a name and a weight. `len` and truth are their number."""

    __slots__ = ("_things",)

    def __init__(self) -> None:
        self._things: dict[str, tuple[int, float, Thing]] = {}

    def __len__(self) -> int:
        return len(self._things)

    def set(self, name: str, thing: Thing, weight: int) -> None:
        """Let a thing take part, or give it another weight."""
        self._things[name] = (_hash(name.encode("utf-8", "surrogatepass")), float(weight), thing)

    def remove(self, name: str) -> None:
        """Let a thing take part no longer."""
        del self._things[name]

    def place(self, value: bytes) -> Thing:
        """Return the thing that the value belongs to. O(things), about a microsecond for each.

        Raises:
            LookupError: there is none.
        """
        hashed = _hash(value)
        least = math.inf
        winner: tuple[int, float, Thing] | None = None
        for candidate in self._things.values():
            seed, weight, _ = candidate
            mixed = hashed ^ seed
            mixed = ((mixed ^ mixed >> 33) * 0xFF51AFD7ED558CCD) & _MASK
            mixed = ((mixed ^ mixed >> 33) * 0xC4CEB9FE1A85EC53) & _MASK
            draw = -math.log((((mixed ^ mixed >> 33) >> _SHIFT) + 0.5) / _SPAN) / weight
            if winner is None or draw < least or (draw == least and seed < winner[0]):
                least, winner = draw, candidate
        if winner is None:
            raise LookupError("there is nothing to choose from")
        return winner[2]


def _hash(value: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(value, digest_size=8).digest())


def hashed_bytes(value: object) -> bytes:
    """Return what is hashed of a routing key or a header: the text itself, and of any other value its JSON.

    What has no JSON hashes as None does, which is also what a missing header is.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    try:
        return msgspec.json.encode(value, order="deterministic")
    except (TypeError, ValueError, OverflowError, RecursionError):
        return b"null"
