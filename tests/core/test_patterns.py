"""Topic patterns: words, wildcards, and the trie that matches many patterns at once."""

import sys
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmesh._core.patterns import Trie, is_wild, matches, words_of
from tests.core.reference import fits

WORDS = st.sampled_from(["", "a", "b", "*", "#", "a#", "*b", "**"])
TEXTS = st.lists(WORDS, max_size=7).map(".".join)
HOSTILE = ".".join(["#", "a"] * 14 + ["#", "b"])
LONG_KEY = ".".join(["a"] * 128)


def count_lines(function: Callable[[], Any]) -> int:
    """Run a function and count the lines of Python that it executes."""
    lines = 0

    def trace(_frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal lines
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return lines


def count_nodes(trie: Trie[Any]) -> int:
    """Count the nodes of a trie, the root aside."""
    count, nodes = -1, [trie._root]
    while nodes:
        node = nodes.pop()
        count += 1
        nodes += [*node.words.values(), *(child for child in (node.star, node.rest) if child is not None)]
    return count


@pytest.mark.parametrize(
    "key, words", [("", []), ("a", ["a"]), (".", ["", ""]), ("a.", ["a", ""]), (".a", ["", "a"]), ("a..b", ["a", "", "b"])]
)
def test_words_stand_between_dots_and_the_empty_key_has_none(key: str, words: list[str]) -> None:
    """A key is words with dots between them; a word may be empty; the empty key has no words at all."""
    assert words_of(key) == words


@pytest.mark.parametrize("pattern", ["*", "#", "a.*", "#.a", "a.#.b", ".*."])
def test_a_wildcard_is_a_whole_word(pattern: str) -> None:
    """A pattern is wild when one of its words is `*` or `#`."""
    assert is_wild(pattern)


@pytest.mark.parametrize("pattern", ["", "a.b", "a*", "#a", "**", "##.a", "a.*b.#c"])
def test_inside_a_longer_word_wildcards_are_ordinary_characters(pattern: str) -> None:
    """`*` and `#` inside a longer word stand for themselves: the pattern matches only the equal key."""
    assert not is_wild(pattern)
    assert matches(pattern, pattern)
    assert not matches(pattern, pattern + "x")


@pytest.mark.parametrize("pattern", ["*", "a.*", "*.*"])
def test_a_star_takes_an_empty_word_but_not_no_word(pattern: str) -> None:
    """`*` stands for exactly one word, which may be empty."""
    assert matches("*.*", ".")
    assert matches("a.*", "a.")
    assert not matches(pattern, "")
    assert not matches(pattern, "a.b.c")


@given(pattern=TEXTS, key=TEXTS)
def test_one_pattern_matches_as_the_rules_say(pattern: str, key: str) -> None:
    """`matches` agrees with trying everything."""
    assert matches(pattern, key) == fits(pattern, key)


@given(patterns=st.lists(TEXTS, max_size=12), keys=st.lists(TEXTS, min_size=1, max_size=6))
def test_the_trie_finds_each_matching_pattern_once(patterns: list[str], keys: list[str]) -> None:
    """A trie finds the value of every pattern that matches, and each only once."""
    trie: Trie[str] = Trie()
    for pattern in set(patterns):
        trie.add(pattern, pattern)
    for key in keys:
        assert sorted(trie.match(key)) == sorted(pattern for pattern in set(patterns) if fits(pattern, key))


@given(
    history=st.lists(st.tuples(st.booleans(), TEXTS, st.integers(0, 2)), max_size=40),
    keys=st.lists(TEXTS, min_size=1, max_size=4),
)
def test_the_trie_holds_what_was_added_and_not_removed(history: list[tuple[bool, str, int]], keys: list[str]) -> None:
    """A value is found until it was removed as often as added; without values no node is left."""
    trie: Trie[int] = Trie()
    model: Counter[tuple[str, int]] = Counter()
    for adds, pattern, value in history:
        if adds:
            trie.add(pattern, value)
            model[pattern, value] += 1
        elif model[pattern, value]:
            trie.remove(pattern, value)
            model[pattern, value] -= 1
        else:
            with pytest.raises(KeyError):
                trie.remove(pattern, value)
    assert trie.size == model.total()
    for key in keys:
        expected = sorted(value for (pattern, value), count in model.items() if count and fits(pattern, key))
        assert sorted(trie.match(key)) == expected
    for (pattern, value), count in model.items():
        for _ in range(count):
            trie.remove(pattern, value)
    assert (trie.size, count_nodes(trie), trie._hashes) == (0, 0, 0)


def test_removing_prunes_only_what_leads_nowhere() -> None:
    """A node goes with the last pattern that needs it, and not before."""
    trie: Trie[str] = Trie()
    trie.add("a.#", "short")
    trie.add("a.#.b.*", "long")
    assert count_nodes(trie) == 4
    trie.remove("a.#.b.*", "long")
    assert count_nodes(trie) == 2
    assert trie.match("a.x.y") == ["short"]


@pytest.mark.parametrize("key", [LONG_KEY, LONG_KEY[:-1] + "b", LONG_KEY[:-1] + "c"])
def test_a_hostile_pattern_takes_polynomial_time(key: str) -> None:
    """Fifteen `#` on a key of 255 bytes take no more than words x words steps, whether it matches or not."""
    assert len(key.encode()) == 255
    steps = len(words_of(HOSTILE)) * len(words_of(key))
    assert count_lines(lambda: matches(HOSTILE, key)) < 8 * steps
    assert matches(HOSTILE, key) == key.endswith("b")


@pytest.mark.parametrize("key", [LONG_KEY, LONG_KEY[:-1] + "b", LONG_KEY[:-1] + "c"])
def test_hostile_patterns_together_take_polynomial_time(key: str) -> None:
    """A trie of hostile patterns visits each of its nodes at most once per word of the key."""
    trie: Trie[str] = Trie()
    patterns = [HOSTILE, ".".join(["#"] * 127), ".".join(["#", "*"] * 40), ".".join(["*", "#"] * 40), ".".join(["#", "a"] * 60)]
    for pattern in patterns:
        trie.add(pattern, pattern)
    steps = (count_nodes(trie) + 1) * (len(words_of(key)) + 1)
    assert count_lines(lambda: trie.match(key)) < 12 * steps
    assert set(trie.match(key)) == {pattern for pattern in patterns if matches(pattern, key)}
