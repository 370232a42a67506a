"""The topology: what is declared and bound, and the mailboxes that a publish reaches.

A route is a walk over the graph of exchanges.  Each exchange is visited at most once per publish, so cycles are legal; an
exchange whose own list of matches is empty hands the message to its alternate; each mailbox is found once, in the order of
its number.  The rules are RabbitMQ's.

Every change of the topology empties every cached route before it returns: a route is never older than the topology.
"""

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from operator import attrgetter
from typing import Final

from msgspec.structs import fields

from flowmesh._core.arguments import Arguments, copied
from flowmesh._core.exchanges import Binding, Destination, Exchange, Table
from flowmesh._core.indexes import INDEXES, index_of
from flowmesh._core.mailbox import Mailbox
from flowmesh.errors import AccessRefused, InvalidBinding, NotFound, PreconditionFailed
from flowmesh.policies import MailboxOptions

__all__ = ["MAX_NAME_BYTES", "ROUTES_CACHED", "Router"]

MAX_NAME_BYTES: Final = 255
"""AMQP 0-9-1's short string: the limit of names and keys, in UTF-8."""
ROUTES_CACHED: Final = 4096
"""How many routes an exchange caches before it forgets them all; full of keys and mailboxes that is about 1 MB."""

_NO_HEADERS: Final[Arguments] = {}
_DEFAULT_OPTIONS: Final = MailboxOptions()
_by_number = attrgetter("number")


class Router:
    """All exchanges and mailboxes of one mesh, each kind with its own names, and the bindings between them.

    `exchanges` and `mailboxes` are to be read, by name, in the order of their declaration; the default exchange is among the
    exchanges under "".
    """

    __slots__ = ("_cacheable", "_last_number", "_warm", "default_exchange", "exchanges", "mailboxes")

    def __init__(self) -> None:
        self.mailboxes: dict[str, Mailbox] = {}
        self.default_exchange = Exchange("", "direct", Table(_NamesIndex(self.mailboxes)))
        self.exchanges: dict[str, Exchange] = {"": self.default_exchange}
        self._last_number = 0
        self._warm: list[Exchange] = []  # those with cached routes: a change need not look at the others
        self._cacheable: dict[Exchange, bool] = {}

    # Declaring

    def declare_exchange(
        self,
        name: str,
        type: str | None = None,
        *,
        alternate: str | None = None,
        internal: bool | None = None,
        durable: bool | None = None,
        arguments: Arguments | None = None,
    ) -> Exchange:
        """Declare an exchange, or find it: by its name alone, or declared again equally.

        Args:
            name: at most 255 bytes; "" finds the default exchange.
            type: "direct" if left out.
            alternate: the name of the exchange that gets what this one has no match for; it need not exist.
            internal: only exchanges may route to it.
            durable: whether messages that are deferred to it are stored; None: if there is a store.
            arguments: what its type is told (see `index_of`); copied.

        Raises:
            PreconditionFailed: it is declared differently, the type is unknown, or takes no such arguments.
            AccessRefused: more than the name is given for the default exchange.
            ValueError: the name is no text, or too long.
        """
        _check_text("the name of an exchange", name)
        by_name_alone = type is None and alternate is None and internal is None and durable is None and arguments is None
        if name == "":
            if not by_name_alone:
                raise AccessRefused("the default exchange cannot be declared: ask for it by its name alone, exchange('')")
            return self.default_exchange
        if alternate is not None:
            _check_text("the name of an alternate exchange", alternate)
        type, internal = type or "direct", bool(internal)
        if type not in INDEXES:
            raise PreconditionFailed(f"exchange {name!r} cannot be of type {type!r}: {_meant(type)}")
        index = index_of(type, arguments)
        arguments = copied(arguments or {})
        found = self.exchanges.get(name)
        if found is None:
            found = Exchange(
                name, type, Table(index), alternate=alternate, internal=internal, durable=durable, arguments=arguments
            )
            self.exchanges[name] = found
            self._forget_routes()
        elif not by_name_alone:
            asked = {"type": type, "alternate": alternate, "internal": internal, "durable": durable, "arguments": arguments}
            declared = {name: getattr(found, name) for name in asked}
            _check_equal(f"exchange {name!r}", declared, asked)
        return found

    def declare_mailbox(self, name: str, options: MailboxOptions | None = None) -> Mailbox:
        """Declare a mailbox, or find it: by its name alone, or declared again with equal options.

        Args:
            name: at most 255 bytes, and not empty.
            options: the default options if left out.

        Raises:
            PreconditionFailed: it is declared with other options.
            ValueError: the name is no text, empty, or too long.
            TypeError: the options are no MailboxOptions.
        """
        _check_text("the name of a mailbox", name)
        if not name:
            raise ValueError("the name of a mailbox must not be empty")
        if options is not None and not isinstance(options, MailboxOptions):  # pyright: ignore[reportUnnecessaryIsInstance] - users get it wrong
            raise TypeError(f"the options of mailbox {name!r} must be MailboxOptions(...), not {options!r}")
        found = self.mailboxes.get(name)
        if found is None:
            self._last_number += 1
            found = self.mailboxes[name] = Mailbox(name, self._last_number, options or _DEFAULT_OPTIONS)
            self._forget_routes()
        elif options is not None:
            _check_equal(f"mailbox {name!r}", _options_by_name(found.options), _options_by_name(options))
        return found

    def find_exchange(self, name: str) -> Exchange | None:
        """Return the exchange of that name, or None."""
        return self.exchanges.get(name)

    def find_mailbox(self, name: str) -> Mailbox | None:
        """Return the mailbox of that name, or None."""
        return self.mailboxes.get(name)

    def has_exchange(self, exchange: Exchange) -> bool:
        """Whether this exchange is declared here, and not merely another one of its name."""
        return self.exchanges.get(exchange.name) is exchange

    def has_mailbox(self, mailbox: Mailbox) -> bool:
        """Whether this mailbox is declared here, and not merely another one of its name."""
        return self.mailboxes.get(mailbox.name) is mailbox

    # Binding

    def bind(self, source: Exchange, destination: Destination, key: str = "", arguments: Arguments | None = None) -> bool:
        """Bind a destination to an exchange; False if the same binding is there already.

        Args:
            source: an exchange of this router.
            destination: a mailbox or an exchange of this router, the source itself included.
            key: the binding key, at most 255 bytes.
            arguments: what a headers exchange looks at, and part of the binding's identity on each; copied.

        Raises:
            AccessRefused: one end is the default exchange.
            NotFound: one end has been deleted.
            InvalidBinding: one end belongs to another mesh, or the arguments cannot be used.
            ValueError: the key is no text, or too long.
        """
        self._check_ends(source, destination)
        _check_text("a binding key", key)
        is_new = source.table.bind(destination, key, arguments)
        if is_new:
            self._forget_routes()
        return is_new

    @staticmethod
    def check_binding(source: Exchange, destination: Destination, *, key: str, arguments: Arguments | None) -> None:
        """Raise what `bind` would raise about a binding as such, wherever its two ends are.

        Raises:
            AccessRefused, InvalidBinding, ValueError: as `bind`.
        """
        _refuse_default("bound", source, destination)
        _check_text("a binding key", key)
        Table(index_of(source.type)).bind(destination, key, arguments)

    def unbind(self, source: Exchange, destination: Destination, key: str = "", arguments: Arguments | None = None) -> bool:
        """Take a binding away; False if it is not there, or one of its ends no longer is.

        Raises:
            AccessRefused: one end is the default exchange.
            InvalidBinding: the arguments cannot be compared.
        """
        _refuse_default("unbound", source, destination)
        was_there = source.table.unbind(destination, key, arguments)
        if was_there:
            self._forget_routes()
        return was_there

    def _check_ends(self, source: Exchange, destination: Destination) -> None:
        _refuse_default("bound", source, destination)
        for end in (source, destination):
            what = "exchange" if isinstance(end, Exchange) else "mailbox"
            if end.deleted:
                raise NotFound(f"{what} {end.name!r} has been deleted: declare it again to bind it")
            is_here = self.has_exchange(end) if isinstance(end, Exchange) else self.has_mailbox(end)
            if not is_here:
                raise InvalidBinding(
                    f"{what} {end.name!r} belongs to another mesh: bind {source.name!r} to {destination.name!r} within one mesh"
                )

    # Deleting

    def delete_exchange(self, exchange: Exchange, *, if_unused: bool = False) -> None:
        """Delete an exchange with all bindings from it and to it; one that is not here is left alone.

        Raises:
            PreconditionFailed: `if_unused`, and something is bound to it.
            AccessRefused: it is the default exchange.
        """
        _refuse_default("deleted", exchange)
        if not self.has_exchange(exchange):
            return
        if if_unused and not exchange.table.is_empty:
            bound = exchange.table.bindings()
            raise PreconditionFailed(f"exchange {exchange.name!r} is in use: {_bound_to(bound)}")
        del self.exchanges[exchange.name]
        exchange.deleted = True
        exchange.table.clear()
        self._unbind_everywhere(exchange)

    def delete_mailbox(self, mailbox: Mailbox, *, if_unused: bool = False, if_empty: bool = False) -> None:
        """Delete a mailbox with all bindings to it; one that is not here is left alone. Its copies are the caller's to end.

        Raises:
            PreconditionFailed: `if_unused` and it has consumers, or `if_empty` and it has ready copies.
        """
        if not self.has_mailbox(mailbox):
            return
        if if_unused and mailbox.consumers:
            raise PreconditionFailed(f"mailbox {mailbox.name!r} is in use: it has {mailbox.consumers} consumer(s)")
        if if_empty and mailbox.ready:
            raise PreconditionFailed(f"mailbox {mailbox.name!r} is not empty: {mailbox.ready} copies are ready in it")
        del self.mailboxes[mailbox.name]
        mailbox.deleted = True
        self._unbind_everywhere(mailbox)

    def _unbind_everywhere(self, destination: Destination) -> None:
        for exchange in self.exchanges.values():
            exchange.table.unbind_all(destination)
        self._forget_routes()

    # Routing

    def route(self, exchange: Exchange, key: str, headers: Arguments | None) -> tuple[Mailbox, ...]:
        """Return the mailboxes that a message is for, each once, by number; a deleted exchange routes nowhere.

        Cached by key in `exchange.routes`, unless headers have a say.
        """
        routes = exchange.routes
        found = routes.get(key)
        if found is None:
            found = self._find(exchange, key, headers or _NO_HEADERS)
            if self._may_cache(exchange, found):
                if not routes:
                    self._warm.append(exchange)
                elif len(routes) >= ROUTES_CACHED and exchange is not self.default_exchange:
                    routes.clear()
                routes[key] = found
        return found

    def _find(self, exchange: Exchange, key: str, headers: Arguments) -> tuple[Mailbox, ...]:
        if exchange.deleted:
            return ()
        table = exchange.table
        matched = table.match(key, headers)
        if table.exchanges or (exchange.alternate is not None and not matched):
            found = self._walk(exchange, matched, key, headers)
        else:
            found = {end: None for end in matched if not isinstance(end, Exchange)}
        return tuple(sorted(found, key=_by_number) if len(found) > 1 else found)

    def _walk(self, start: Exchange, matched: Collection[Destination], key: str, headers: Arguments) -> dict[Mailbox, None]:
        found: dict[Mailbox, None] = {}
        visited = {start}
        exchanges = [start]
        for exchange in exchanges:  # grows as it goes
            if exchange is not start:
                matched = exchange.table.match(key, headers)
            if not matched and exchange.alternate is not None:
                alternate = self.exchanges.get(exchange.alternate)
                matched = () if alternate is None else (alternate,)
            for destination in matched:
                if not isinstance(destination, Exchange):
                    found[destination] = None
                elif destination not in visited:
                    visited.add(destination)
                    exchanges.append(destination)
        return found

    def _may_cache(self, exchange: Exchange, found: tuple[Mailbox, ...]) -> bool:
        if exchange is self.default_exchange:
            return bool(found)  # so it holds at most one route per mailbox, and never forgets one for want of room
        answer = self._cacheable.get(exchange)
        if answer is None:
            answer = self._cacheable[exchange] = not exchange.deleted and not self._reaches_headers(exchange)
        return answer

    def _reaches_headers(self, start: Exchange) -> bool:
        """Whether a headers exchange can be visited from here, by bindings or as an alternate, whatever the key."""
        visited = {start}
        exchanges = [start]
        for exchange in exchanges:  # grows as it goes
            if exchange.table.by_headers:
                return True
            reached = set(exchange.table.exchanges)
            alternate = None if exchange.alternate is None else self.exchanges.get(exchange.alternate)
            if alternate is not None:
                reached.add(alternate)
            exchanges += reached - visited
            visited |= reached
        return False

    def _forget_routes(self) -> None:
        for exchange in self._warm:
            exchange.routes.clear()
        self._warm.clear()
        self._cacheable.clear()


class _NamesIndex:
    """The default exchange's bindings: every mailbox is bound by its name, nothing else can be."""

    __slots__ = ("_mailboxes",)
    by_headers = False

    def __init__(self, mailboxes: Mapping[str, Mailbox]) -> None:
        self._mailboxes = mailboxes

    def add(self, binding: Binding) -> None:
        raise AccessRefused(f"the default exchange cannot be bound to {binding.destination.name!r}")

    def remove(self, binding: Binding) -> None:
        raise AssertionError(f"{binding!r} cannot have been added")  # pragma: no cover - see add

    def match(self, key: str, headers: Arguments) -> Collection[Destination]:
        mailbox = self._mailboxes.get(key)
        return () if mailbox is None else (mailbox,)


# Checking


def _refuse_default(verb: str, *ends: Destination) -> None:
    for end in ends:
        if isinstance(end, Exchange) and end.name == "":
            raise AccessRefused(f"the default exchange cannot be {verb}: it routes to the mailbox named by the key, always")


def _check_text(what: str, text: str) -> None:
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance] - users get it wrong
        raise ValueError(f"{what} must be a text, not {text!r}")  # noqa: TRY004 - a wrong argument is a ValueError (errors.py)
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise ValueError(f"{what} must be text that UTF-8 can write, which {text!r} is not") from None
    if size > MAX_NAME_BYTES:
        raise ValueError(f"{what} must be at most {MAX_NAME_BYTES} bytes of UTF-8, but {text[:32]!r}... has {size}")


def _check_equal(what: str, declared: Mapping[str, object], asked: Mapping[str, object]) -> None:
    differences = [f"{name} is {value!r}, not {asked[name]!r}" for name, value in declared.items() if value != asked[name]]
    if differences:
        raise PreconditionFailed(f"{what} is declared differently: its {', '.join(differences)}")


def _options_by_name(options: MailboxOptions) -> dict[str, object]:
    return {field.name: getattr(options, field.name) for field in fields(options)}


def _meant(type: str) -> str:
    close = get_close_matches(type, INDEXES, n=1)
    return f"{f'did you mean {close[0]!r}? ' if close else ''}the types are {', '.join(INDEXES)}"


def _bound_to(bindings: list[Binding]) -> str:
    first = bindings[0]
    more = f" and {len(bindings) - 1} more" if len(bindings) > 1 else ""
    return f"{first.destination.name!r} is bound to it with key {first.key!r}{more}"
