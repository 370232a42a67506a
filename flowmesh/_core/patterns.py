"""Binding keys of topic exchanges: words, `*`, `#`, and the trie that finds all patterns matching a key.

A key is words with dots between them; the empty key has no words, while "." has two empty ones.  In a pattern the word `*`
stands for exactly one word (possibly empty) and the word `#` for any number of words, none included; inside a longer word
both are ordinary characters.  In a key they always are.  Any number of `#` is allowed.

Nothing here backtracks over more than one `#`, so a match takes at most (words of the key) x (words of the pattern), or x
(nodes of the trie), steps.  The rules are RabbitMQ's (AMQP 0-9-1, section 3.1.3.3).
"""

from collections.abc import Sequence
from typing import Generic, TypeVar

__all__ = ["Trie", "is_wild", "matches", "words_of"]

Value = TypeVar("Value")


def words_of(key: str) -> list[str]:
    """Return the words of a key or pattern; the empty one has none."""
    return key.split(".") if key else []


def is_wild(pattern: str) -> bool:
    """Whether a word of the pattern is `*` or `#`, so that it can match more than the key that is equal to it."""
    return ("*" in pattern or "#" in pattern) and not {"*", "#"}.isdisjoint(pattern.split("."))


def matches(pattern: str, key: str) -> bool:
    """Whether the key matches the pattern. O(words of pattern x words of key).

    When a word does not fit, only the latest `#` is given one word more: an earlier one could win nothing by taking more,
    since the latest can take any words as well.
    """
    wanted, given = words_of(pattern), words_of(key)
    at, position = 0, 0
    resume, taken = -1, 0  # where to go on after the latest `#`, and the first word that it does not take
    while position < len(given):
        if at < len(wanted) and wanted[at] == "#":
            at += 1
            resume, taken = at, position
        elif at < len(wanted) and wanted[at] in ("*", given[position]):
            at += 1
            position += 1
        elif resume >= 0:
            taken += 1
            at, position = resume, taken
        else:
            return False
    return all(word == "#" for word in wanted[at:])


class _Node(Generic[Value]):
    """What follows one prefix of patterns: by word, by `*`, by `#`; and the values of the pattern that ends here."""

    __slots__ = ("rest", "star", "values", "words")

    def __init__(self) -> None:
        self.words: dict[str, _Node[Value]] = {}
        self.star: _Node[Value] | None = None
        self.rest: _Node[Value] | None = None
        self.values: dict[Value, int] = {}

    @property
    def is_empty(self) -> bool:
        return not (self.values or self.words or self.star or self.rest)

    def follow(self, word: str) -> "_Node[Value] | None":
        """Return the node after one more word of a pattern."""
        if word == "*":
            return self.star
        return self.rest if word == "#" else self.words.get(word)

    def put(self, word: str, node: "_Node[Value] | None") -> None:
        """Put a node after one more word of a pattern, or take it away."""
        if word == "*":
            self.star = node
        elif word == "#":
            self.rest = node
        elif node is None:
            del self.words[word]
        else:
            self.words[word] = node


class Trie(Generic[Value]):
    """Values by pattern. The same value may be added several times; it is there until it was removed as often.

    `size` counts what was added and not removed. Values must be hashable. Not bounded: it holds what was added, and no node
    that leads nowhere.
    """

    __slots__ = ("_hashes", "_root", "size")

    def __init__(self) -> None:
        self._root: _Node[Value] = _Node()
        self._hashes = 0  # how many nodes stand behind a `#`: without any, matching is a plain walk
        self.size = 0

    def add(self, pattern: str, value: Value) -> None:
        """Add a value. O(words of the pattern)."""
        node = self._root
        for word in words_of(pattern):
            following = node.follow(word)
            if following is None:
                made: _Node[Value] = _Node()
                node.put(word, made)
                self._hashes += word == "#"
                following = made
            node = following
        node.values[value] = node.values.get(value, 0) + 1
        self.size += 1

    def remove(self, pattern: str, value: Value) -> None:
        """Take away one addition of a value, and the nodes that then lead nowhere. O(words of the pattern).

        Raises:
            KeyError: it is not there.
        """
        node, path = self._root, list[tuple[_Node[Value], str]]()
        for word in words_of(pattern):
            following = node.follow(word)
            if following is None:
                raise KeyError(pattern)
            path.append((node, word))
            node = following
        node.values[value] -= 1
        self.size -= 1
        if not node.values[value]:
            del node.values[value]
        for parent, word in reversed(path):
            if not node.is_empty:
                break
            parent.put(word, None)
            self._hashes -= word == "#"
            node = parent

    def match(self, key: str) -> list[Value]:
        """Return the values of all patterns that match, each value once per pattern, in no particular order.

        All nodes that the words so far can lead to are walked together, word by word. A node has one parent, so it is
        reached once per word; only a node behind a `#` could be reached more often, and `_open` sees to that.
        """
        if self._hashes:
            return self._match_through_hashes(key)
        level = [self._root]
        for word in key.split(".") if key else ():
            following: list[_Node[Value]] = []
            for node in level:
                child = node.words.get(word)
                if child is not None:
                    following.append(child)
                child = node.star
                if child is not None:
                    following.append(child)
            if not following:
                return []
            level = following
        return [value for node in level for value in node.values]

    def _match_through_hashes(self, key: str) -> list[Value]:
        found: list[Value] = []
        level = [self._root]
        opened: set[_Node[Value]] = set()
        loops: list[_Node[Value]] = []
        self._open(level, opened, loops, found)
        for word in words_of(key):
            sources = level + loops
            if not sources:
                break
            level = list[_Node[Value]]()
            for node in sources:
                child = node.words.get(word)
                if child is not None:
                    level.append(child)
                child = node.star
                if child is not None:
                    level.append(child)
            self._open(level, opened, loops, found)
        found += [value for node in level for value in node.values]
        return found

    @staticmethod
    def _open(level: Sequence[_Node[Value]], opened: set[_Node[Value]], loops: list[_Node[Value]], found: list[Value]) -> None:
        """Enter what stands behind a `#` after the nodes of `level`, once per match.

        A `#` takes any further words, so the node behind it stays reached to the end of the key: its own values match
        whatever follows, and it joins every later step if patterns go on from it.
        """
        for start in level:
            node = start.rest
            while node is not None and node not in opened:
                opened.add(node)
                found += node.values
                if node.words or node.star is not None:
                    loops.append(node)
                node = node.rest
