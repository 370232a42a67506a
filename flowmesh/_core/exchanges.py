"""Exchanges and their binding tables: what is bound to what.

A Table keeps what is bound and in which order it was declared; an index, one class per type (see `indexes`), finds what
matches without looking at the rest.  A binding is known by destination, key and arguments, on every type (RabbitMQ's rule): the
order of the arguments does not matter, their types do (see `arguments`).
"""

from collections.abc import Callable, Collection, Hashable, Iterator
from typing import Final, Protocol, TypeAlias

from msgspec import Struct

from flowmesh._core.arguments import Arguments, compared, copied
from flowmesh._core.mailbox import Mailbox

__all__ = ["Binding", "Destination", "Exchange", "Index", "Table"]


class Exchange:
    """One exchange of the core: what a publisher may look at, and what the router keeps about it.

    `routes` is a cache of whole routes by key, alternates and further exchanges included; a hit needs no look at anything
    else. The router fills it, bounds it, and empties it whenever a route may have changed; it stays empty while a route
    could depend on headers. `unroutable` counts messages that it routed nowhere. `durable`: as `MailboxOptions.durable`, of
    messages that are deferred to it. `arguments`: what its type was told.
    """

    __slots__ = ("alternate", "arguments", "deleted", "durable", "internal", "name", "routes", "table", "type", "unroutable")

    def __init__(
        self,
        name: str,
        type: str,
        table: "Table",
        *,
        alternate: str | None = None,
        internal: bool = False,
        durable: bool | None = None,
        arguments: Arguments | None = None,
    ) -> None:
        self.name = name
        self.type = type
        self.table = table
        self.alternate = alternate
        self.internal = internal
        self.durable = durable
        self.arguments: Arguments = arguments or {}
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
        # The usual only binding of a destination, without arguments, stands there itself.
        self._bindings: dict[Destination, Binding | dict[Hashable, Binding]] = {}
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
        identity: Hashable = (key, standing) if standing else key
        bindings = self._bindings.get(destination)
        if isinstance(bindings, Binding):
            bindings = dict[Hashable, Binding](((bindings.key, bindings),))
        if bindings is not None and identity in bindings:
            return False
        binding = Binding(self._serial, destination, key, copied(arguments) if arguments else _NO_ARGUMENTS)
        self._index.add(binding)
        if bindings is None:
            self._bindings[destination] = {identity: binding} if standing else binding
            if isinstance(destination, Exchange):
                self.exchanges.add(destination)
        else:
            bindings[identity] = binding
            self._bindings[destination] = bindings
        self._serial += 1
        return True

    def unbind(self, destination: Destination, key: str, arguments: Arguments | None) -> bool:
        """Take a binding away; False if it is not there.

        Raises:
            InvalidBinding: the arguments cannot be compared.
        """
        standing = compared(arguments)
        identity = (key, standing) if standing else key
        bindings = self._bindings.get(destination)
        if isinstance(bindings, Binding):
            binding = bindings if identity == bindings.key else None
        else:
            binding = None if bindings is None else bindings.pop(identity, None)
        if binding is None:
            return False
        self._index.remove(binding)
        if bindings is binding or not bindings:
            self._forget(destination)
        return True

    def unbind_all(self, destination: Destination) -> bool:
        """Take all bindings of a destination away; False if there are none. O(its bindings)."""
        bindings = self._bindings.get(destination)
        if bindings is None:
            return False
        for binding in (bindings,) if isinstance(bindings, Binding) else bindings.values():
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
            if isinstance(bindings, Binding):
                yield bindings
            else:
                yield from bindings.values()

    def _forget(self, destination: Destination) -> None:
        del self._bindings[destination]
        if isinstance(destination, Exchange):
            self.exchanges.discard(destination)


_NO_ARGUMENTS: Final[Arguments] = {}
