"""Exchanges and their binding tables: which destinations a message is for, by the exchange's type.

A Table keeps what is bound and in which order it was declared; an index, one class per type, finds what matches without
looking at the rest.  A binding is known by destination, key and arguments, on every type (RabbitMQ's rule): the order of the
arguments does not matter, their types do (see `arguments`).
"""

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from typing import Final, Protocol, TypeAlias

from msgspec import Struct

from flowmesh._core.arguments import Arguments, Criteria, compared, copied, criteria_of, offered
from flowmesh._core.mailbox import Mailbox
from flowmesh._core.patterns import Trie, is_wild

__all__ = ["INDEXES", "Binding", "Destination", "Exchange", "HeadersIndex", "Index", "Table"]


class Exchange:
    """One exchange of the core: what a publisher may look at, and what the router keeps about it.

    `routes` is a cache of whole routes by key, alternates and further exchanges included; a hit needs no look at anything
    else. The router fills it, bounds it, and empties it whenever a route may have changed; it stays empty while a route
    could depend on headers. `unroutable` counts messages that it routed nowhere.
    """

    __slots__ = ("alternate", "deleted", "internal", "name", "routes", "table", "type", "unroutable")

    def __init__(self, name: str, type: str, table: "Table", *, alternate: str | None = None, internal: bool = False) -> None:
        self.name = name
        self.type = type
        self.table = table
        self.alternate = alternate
        self.internal = internal
        self.deleted = False
        self.unroutable = 0
        self.routes: dict[str, tuple[Mailbox, ...]] = {}

    def __repr__(self) -> str:
        return f"<exchange {self.name!r} {self.type}>"


Destination: TypeAlias = Mailbox | Exchange


class Binding(Struct, frozen=True, eq=False):
    """One binding as it was declared: `serial` is its turn in its table."""

    serial: int
    destination: Destination
    key: str
    arguments: Arguments


class Index(Protocol):
    """Finds the destinations of a table that a message matches. Gets every binding once, and back the same object."""

    by_headers: bool

    def add(self, binding: Binding) -> None:
        """Take a new binding in.

        Raises:
            InvalidBinding: its arguments make no sense for this type; nothing has changed.
        """
        ...

    def remove(self, binding: Binding) -> None:
        """Take a binding out that is in."""
        ...

    def match(self, key: str, headers: Arguments) -> Collection[Destination]:
        """Return the destinations; one may stand there more than once. To be read at once: it may be the index's own."""
        ...


class Table:
    """The bindings of one exchange.

    `match(key, headers)` is its index's; `exchanges` are those among its destinations; `by_headers` says that headers
    decide, not the key alone.
    """

    __slots__ = ("_bindings", "_index", "_serial", "by_headers", "exchanges", "match")

    def __init__(self, index: Index) -> None:
        # By destination first, so that all bindings of one can go at once; then by key (and arguments, if there are any).
        self._bindings: dict[Destination, dict[Hashable, Binding]] = {}
        self._index = index
        self._serial = 0
        self.exchanges: set[Exchange] = set()
        self.by_headers = index.by_headers
        self.match: Callable[[str, Arguments], Collection[Destination]] = index.match

    @property
    def is_empty(self) -> bool:
        """Nothing is bound."""
        return not self._bindings

    def bind(self, destination: Destination, key: str, arguments: Arguments | None) -> bool:
        """Add a binding; False if it is there already. The arguments are copied, what is nested in them as well.

        Raises:
            InvalidBinding: the arguments cannot be compared, or make no sense for the exchange's type.
        """
        standing = compared(arguments)
        identity = (key, standing) if standing else key
        bindings = self._bindings.get(destination)
        if bindings is not None and identity in bindings:
            return False
        binding = Binding(self._serial, destination, key, copied(arguments) if arguments else _NO_ARGUMENTS)
        self._index.add(binding)
        if bindings is None:
            bindings = self._bindings[destination] = {}
            if isinstance(destination, Exchange):
                self.exchanges.add(destination)
        bindings[identity] = binding
        self._serial += 1
        return True

    def unbind(self, destination: Destination, key: str, arguments: Arguments | None) -> bool:
        """Take a binding away; False if it is not there.

        Raises:
            InvalidBinding: the arguments cannot be compared.
        """
        standing = compared(arguments)
        bindings = self._bindings.get(destination)
        binding = None if bindings is None else bindings.pop((key, standing) if standing else key, None)
        if bindings is None or binding is None:
            return False
        self._index.remove(binding)
        if not bindings:
            self._forget(destination)
        return True

    def unbind_all(self, destination: Destination) -> bool:
        """Take all bindings of a destination away; False if there are none. O(its bindings)."""
        bindings = self._bindings.get(destination)
        if bindings is None:
            return False
        for binding in bindings.values():
            self._index.remove(binding)
        self._forget(destination)
        return True

    def clear(self) -> None:
        """Take all bindings away."""
        for destination in list(self._bindings):
            self.unbind_all(destination)

    def bindings(self) -> list[Binding]:
        """Return the bindings in the order in which they were declared."""
        return sorted(self._all(), key=lambda binding: binding.serial)

    def _all(self) -> Iterator[Binding]:
        for bindings in self._bindings.values():
            yield from bindings.values()

    def _forget(self, destination: Destination) -> None:
        del self._bindings[destination]
        if isinstance(destination, Exchange):
            self.exchanges.discard(destination)


# The types


class DirectIndex:
    """The binding key is the routing key."""

    __slots__ = ("_by_key",)
    by_headers = False

    def __init__(self) -> None:
        self._by_key: dict[str, dict[Destination, int]] = {}

    def add(self, binding: Binding) -> None:
        """See Index."""
        _count(self._by_key.setdefault(binding.key, {}), binding.destination)

    def remove(self, binding: Binding) -> None:
        """See Index."""
        counts = self._by_key[binding.key]
        _discount(counts, binding.destination)
        if not counts:
            del self._by_key[binding.key]

    def match(self, key: str, headers: Arguments) -> Collection[Destination]:
        """See Index. O(1)."""
        return self._by_key.get(key, ())


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


INDEXES: Final[Mapping[str, type[DirectIndex | FanoutIndex | TopicIndex | HeadersIndex]]] = {
    "direct": DirectIndex,
    "fanout": FanoutIndex,
    "topic": TopicIndex,
    "headers": HeadersIndex,
}
"""The types of exchanges that can be declared."""

_NO_ARGUMENTS: Final[Arguments] = {}
_NOTHING: Final[Mapping[Binding, Criteria]] = {}


def _count(counts: dict[Destination, int], destination: Destination) -> None:
    """Count one more binding of a destination: it may be bound alike with other arguments."""
    counts[destination] = counts.get(destination, 0) + 1


def _discount(counts: dict[Destination, int], destination: Destination) -> None:
    """Count one binding less; a destination without any goes."""
    counts[destination] -= 1
    if not counts[destination]:
        del counts[destination]
