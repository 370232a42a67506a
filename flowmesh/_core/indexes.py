"""The types of exchanges, each an index: how it finds the destinations of its table that a message is for.

direct: the equal key.  fanout: all.  topic: patterns of words.  headers: what arguments ask of headers.  hash: one of all,
chosen by the hash of the key or of a header.
"""

from collections.abc import Collection, Hashable, Mapping
from typing import Final

from flowmesh._core.arguments import Arguments, Criteria, criteria_of, offered
from flowmesh._core.exchanges import Binding, Destination, Exchange, Index
from flowmesh._core.hashing import Placement, hashed_bytes
from flowmesh._core.patterns import Trie, is_wild
from flowmesh.errors import InvalidBinding, PreconditionFailed

__all__ = ["INDEXES", "HashIndex", "HeadersIndex", "index_of"]


class DirectIndex:
    """The binding key is the routing key."""

    __slots__ = ("_by_key",)
    by_headers = False

    def __init__(self) -> None:
        # Most keys have one destination, which then stands there itself: a dict of it would weigh more than it does.
        self._by_key: dict[str, Destination | dict[Destination, int]] = {}

    def add(self, binding: Binding) -> None:
        """See Index."""
        found = self._by_key.get(binding.key)
        if found is None:
            self._by_key[binding.key] = binding.destination
            return
        if not isinstance(found, dict):
            found = self._by_key[binding.key] = {found: 1}
        _count(found, binding.destination)

    def remove(self, binding: Binding) -> None:
        """See Index."""
        found = self._by_key[binding.key]
        if isinstance(found, dict):
            _discount(found, binding.destination)
        if not isinstance(found, dict) or not found:
            del self._by_key[binding.key]

    def match(self, key: str, headers: Arguments) -> Collection[Destination]:
        """See Index. O(1)."""
        found = self._by_key.get(key)
        if found is None:
            return ()
        return found if isinstance(found, dict) else (found,)


class FanoutIndex:
    """Everything matches."""

    __slots__ = ("_counts",)
    by_headers = False

    def __init__(self) -> None:
        self._counts: dict[Destination, int] = {}

    def add(self, binding: Binding) -> None:
        """See Index."""
        _count(self._counts, binding.destination)

    def remove(self, binding: Binding) -> None:
        """See Index."""
        _discount(self._counts, binding.destination)

    def match(self, key: str, headers: Arguments) -> Collection[Destination]:
        """See Index. O(1)."""
        return self._counts


class TopicIndex:
    """The binding key is a pattern. Those without a wildcard are a dict, so that the trie holds only what needs one."""

    __slots__ = ("_exact", "_wild")
    by_headers = False

    def __init__(self) -> None:
        self._exact = DirectIndex()
        self._wild: Trie[Destination] = Trie()

    def add(self, binding: Binding) -> None:
        """See Index."""
        if is_wild(binding.key):
            self._wild.add(binding.key, binding.destination)
        else:
            self._exact.add(binding)

    def remove(self, binding: Binding) -> None:
        """See Index."""
        if is_wild(binding.key):
            self._wild.remove(binding.key, binding.destination)
        else:
            self._exact.remove(binding)

    def match(self, key: str, headers: Arguments) -> Collection[Destination]:
        """See Index. Does not grow with the number of exact patterns."""
        exact = self._exact.match(key, headers)
        if not self._wild.size:
            return exact
        wild = self._wild.match(key)
        return [*exact, *wild] if exact else wild


class HeadersIndex:
    """The arguments say which headers a message must have (see `criteria_of`); the key says nothing.

    A binding that wants any of several is found by each of them. One that wants all is found by the one that fewest others
    were found by when it was added: so a match looks at few bindings besides those that it finds.
    """

    __slots__ = ("_always", "_by_want", "_found_by")
    by_headers = True

    def __init__(self) -> None:
        self._found_by: dict[Binding, tuple[Hashable, ...]] = {}
        self._by_want: dict[Hashable, dict[Binding, Criteria]] = {}
        self._always: dict[Binding, Criteria] = {}  # those that want nothing

    def add(self, binding: Binding) -> None:
        """See Index."""
        criteria = criteria_of(binding.arguments)
        wants = criteria.wanted
        if criteria.needs_all and wants:
            wants = (min(wants, key=lambda want: len(self._by_want.get(want, _NOTHING))),)
        elif criteria.needs_all:
            self._always[binding] = criteria
        self._found_by[binding] = wants
        for want in wants:
            self._by_want.setdefault(want, {})[binding] = criteria

    def remove(self, binding: Binding) -> None:
        """See Index."""
        self._always.pop(binding, None)
        for want in self._found_by.pop(binding):
            found = self._by_want[want]
            del found[binding]
            if not found:
                del self._by_want[want]

    def match(self, key: str, headers: Arguments) -> Collection[Destination]:
        """See Index. O(headers + bindings found by one of them)."""
        found = [binding.destination for binding in self._always]
        if headers and self._by_want:
            offers = set(offered(headers))
            for offer in offers:
                for binding, criteria in self._by_want.get(offer, _NOTHING).items():
                    if not criteria.needs_all or offers.issuperset(criteria.wanted):
                        found.append(binding.destination)
        return found


class HashIndex:
    """The binding key is a weight; the hash of the routing key, or of one header, chooses one destination of all.

    RabbitMQ's rules for its consistent-hash exchange. One binding of a destination counts: the oldest that stands.
    """

    __slots__ = ("_bindings", "_header", "_placement", "by_headers")

    def __init__(self, header: str | None = None) -> None:
        self._header = header
        self.by_headers = header is not None
        self._placement: Placement[Destination] = Placement()
        self._bindings: dict[str, dict[Binding, int]] = {}  # by the destination's kind and name: the weight of each

    def add(self, binding: Binding) -> None:
        """See Index."""
        weight = _weight_of(binding)
        name = _hashed_name(binding.destination)
        if name not in self._bindings:
            self._placement.set(name, binding.destination, weight)
        self._bindings.setdefault(name, {})[binding] = weight

    def remove(self, binding: Binding) -> None:
        """See Index."""
        name = _hashed_name(binding.destination)
        bindings = self._bindings[name]
        del bindings[binding]
        if bindings:
            self._placement.set(name, binding.destination, next(iter(bindings.values())))
        else:
            del self._bindings[name]
            self._placement.remove(name)

    def match(self, key: str, headers: Arguments) -> Collection[Destination]:
        """See Index. O(destinations)."""
        if not self._placement:
            return ()
        value = key if self._header is None else headers.get(self._header)
        return (self._placement.place(hashed_bytes(value)),)


INDEXES: Final[Mapping[str, type[DirectIndex | FanoutIndex | TopicIndex | HeadersIndex | HashIndex]]] = {
    "direct": DirectIndex,
    "fanout": FanoutIndex,
    "topic": TopicIndex,
    "headers": HeadersIndex,
    "hash": HashIndex,
}
"""The types of exchanges that can be declared."""


def index_of(type: str, arguments: Arguments | None = None) -> Index:
    """Make the index of an exchange of this type.

    Args:
        type: a key of INDEXES.
        arguments: for "hash": {"hash-header": name} hashes that header instead of the key.

    Raises:
        PreconditionFailed: the type takes no such arguments.
    """
    if not arguments:
        return INDEXES[type]()
    header = arguments.get("hash-header")
    if type != "hash" or len(arguments) > 1 or not isinstance(header, str) or not header:
        raise PreconditionFailed(
            f"an exchange of type {type!r} cannot have the arguments {dict(arguments)!r}: the only ones are "
            "{'hash-header': name}, for type 'hash'"
        )
    return HashIndex(header)


_NOTHING: Final[Mapping[Binding, Criteria]] = {}


def _count(counts: dict[Destination, int], destination: Destination) -> None:
    """Count one more binding of a destination: it may be bound alike with other arguments."""
    counts[destination] = counts.get(destination, 0) + 1


def _discount(counts: dict[Destination, int], destination: Destination) -> None:
    """Count one binding less; a destination without any goes."""
    counts[destination] -= 1
    if not counts[destination]:
        del counts[destination]


def _weight_of(binding: Binding) -> int:
    key = binding.key
    if not (key.isascii() and key.isdigit()) or int(key) < 1:
        raise InvalidBinding(
            f"the binding key of a hash exchange is a weight, a whole number of at least 1 as text ('1'), not {key!r}: "
            f"say how large the share of {binding.destination.name!r} is"
        )
    return int(key)


def _hashed_name(destination: Destination) -> str:
    return f"{'exchange' if isinstance(destination, Exchange) else 'mailbox'} {destination.name}"
