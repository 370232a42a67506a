"""The rules of matching, as short as they can be said: what the real thing is held against."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any


def fits(pattern: str, key: str) -> bool:
    """Whether a topic pattern matches a key, by trying everything. Exponential."""
    return _fits(pattern.split(".") if pattern else [], key.split(".") if key else [])


def _fits(pattern: Sequence[str], key: Sequence[str]) -> bool:
    if not pattern:
        return not key
    if pattern[0] == "#":
        return _fits(pattern[1:], key) or (bool(key) and _fits(pattern, key[1:]))
    return bool(key) and pattern[0] in ("*", key[0]) and _fits(pattern[1:], key[1:])


def meets(arguments: Mapping[str, Any], headers: Mapping[str, Any]) -> bool:
    """Whether headers meet the arguments of a binding, for values that are texts, whole numbers, booleans or None."""
    match = arguments.get("x-match", "all")
    wanted = {
        name: value
        for name, value in arguments.items()
        if name != "x-match" and (match.endswith("-with-x") or not name.startswith("x-"))
    }
    met = [
        name in headers and (value is None or (type(value), value) == (type(headers[name]), headers[name]))
        for name, value in wanted.items()
    ]
    return all(met) if match.startswith("all") else any(met)


def belongs(value: bytes, weights: Mapping[str, int]) -> str:
    """The name that a value belongs to: each draws an exponential number with its weight as the rate, the least wins."""
    return min(weights, key=lambda name: -math.log(_draw(name.encode(), value)) / weights[name])


def _draw(name: bytes, value: bytes) -> float:
    one, other = (int.from_bytes(hashlib.blake2b(each, digest_size=8).digest()) for each in (name, value))
    return (_finalized(one ^ other) // 2**12 + 0.5) / 2**52


def _finalized(number: int) -> int:
    """MurmurHash3's fmix64."""
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        number = (number ^ number // 2**33) * factor % 2**64
    return number ^ number // 2**33
