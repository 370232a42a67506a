"""The router: declaring, binding, deleting, and where a publish goes."""

import json
from typing import Any, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flowmesh._core.exchanges import Exchange
from flowmesh._core.mailbox import Mailbox
from flowmesh._core.router import ROUTES_CACHED, Router
from flowmesh.errors import AccessRefused, InvalidBinding, NotFound, PreconditionFailed
from flowmesh.message import Message
from flowmesh.policies import MailboxOptions
from tests.core.reference import belongs, fits, meets

LONG = "ü" * 128  # 256 bytes


def _route(router: Router, exchange: Exchange, key: str = "", headers: dict[str, Any] | None = None) -> list[str]:
    return [mailbox.name for mailbox in router.route(exchange, key, headers)]


# Declaring


def test_an_exchange_is_direct_unless_said_otherwise() -> None:
    """A new exchange without options is direct, has no alternate, and is not internal."""
    exchange = Router().declare_exchange("x")
    assert (exchange.name, exchange.type, exchange.alternate, exchange.internal) == ("x", "direct", None, False)


@pytest.mark.parametrize(
    "options",
    [{}, {"type": "topic", "alternate": "other", "internal": True}, {"type": "topic", "alternate": "other", "internal": 1}],
)
def test_declaring_an_exchange_again_finds_it(options: dict[str, Any]) -> None:
    """By its name alone, or equally, a declaration returns the exchange that is there."""
    router = Router()
    exchange = router.declare_exchange("x", "topic", alternate="other", internal=True)
    assert router.declare_exchange("x", **options) is exchange
    assert router.find_exchange("x") is exchange


@pytest.mark.parametrize(
    "options, difference",
    [
        ({"type": "fanout", "alternate": "a"}, "type is 'topic', not 'fanout'"),
        ({"type": "topic"}, "alternate is 'a', not None"),
        ({"type": "topic", "alternate": "b"}, "alternate is 'a', not 'b'"),
        ({"type": "topic", "alternate": "a", "internal": True}, "internal is False, not True"),
        ({"alternate": "a"}, "type is 'topic', not 'direct'"),
    ],
)
def test_declaring_an_exchange_differently_is_refused(options: dict[str, Any], difference: str) -> None:
    """A declaration that differs raises and names each difference; the exchange stays as it was."""
    router = Router()
    exchange = router.declare_exchange("x", "topic", alternate="a")
    with pytest.raises(PreconditionFailed, match=f"exchange 'x' is declared differently: its .*{difference}"):
        router.declare_exchange("x", **options)
    assert (exchange.type, exchange.alternate, exchange.internal) == ("topic", "a", False)


def test_an_unknown_type_is_refused_with_the_known_ones() -> None:
    """A type that does not exist is refused, naming those that do and the nearest; nothing is declared."""
    router = Router()
    with pytest.raises(
        PreconditionFailed, match=r"cannot be of type 'topics': did you mean 'topic'\? the types are direct, fanout"
    ):
        router.declare_exchange("x", "topics")
    with pytest.raises(PreconditionFailed, match=r"cannot be of type 'zzz': the types are"):
        router.declare_exchange("x", "zzz")
    assert router.find_exchange("x") is None


def test_declaring_a_mailbox_again_finds_it() -> None:
    """By its name alone, or with equal options, a declaration returns the mailbox that is there."""
    router = Router()
    mailbox = router.declare_mailbox("m", MailboxOptions(capacity=3, dead_letter=router.declare_exchange("dead")))
    assert router.declare_mailbox("m") is mailbox
    assert router.declare_mailbox("m", MailboxOptions(capacity=3, dead_letter="dead")) is mailbox
    assert router.find_mailbox("m") is mailbox
    assert router.declare_mailbox("n").options == MailboxOptions()


def test_declaring_a_mailbox_differently_is_refused() -> None:
    """Other options raise and name each difference; giving the defaults is not the same as giving none."""
    router = Router()
    router.declare_mailbox("m", MailboxOptions(capacity=3))
    with pytest.raises(
        PreconditionFailed, match="mailbox 'm' is declared differently: its capacity is 3, not 4, ttl is None, not 1"
    ):
        router.declare_mailbox("m", MailboxOptions(capacity=4, ttl=1.0))
    with pytest.raises(PreconditionFailed, match="capacity is 3, not 10000"):
        router.declare_mailbox("m", MailboxOptions())


def test_exchanges_and_mailboxes_have_names_of_their_own() -> None:
    """An exchange and a mailbox may have one name."""
    router = Router()
    exchange, mailbox = router.declare_exchange("x"), router.declare_mailbox("x")
    assert (router.find_exchange("x"), router.find_mailbox("x")) == (exchange, mailbox)


@pytest.mark.parametrize("name", [LONG, "\ud800", 7, None])
def test_a_name_that_cannot_be_is_refused(name: Any) -> None:
    """Names are texts of at most 255 bytes of UTF-8; a mailbox's is not empty either."""
    router = Router()
    for declare in (router.declare_exchange, router.declare_mailbox):
        with pytest.raises(ValueError, match=r"the name of an? (exchange|mailbox) must be"):
            declare(name)
    with pytest.raises(ValueError, match="the name of an alternate exchange must be"):
        router.declare_exchange("x", alternate=name if name is not None else cast(Any, 0))
    with pytest.raises(ValueError, match="must not be empty"):
        router.declare_mailbox("")
    assert router.declare_mailbox("ü" * 127).name == "ü" * 127


# The default exchange


def test_the_default_exchange_routes_to_the_mailbox_named_by_the_key() -> None:
    """Every mailbox is reached through "" by its name, from its declaration to its deletion."""
    router = Router()
    default = router.declare_exchange("")
    assert default is router.default_exchange is router.find_exchange("")
    assert _route(router, default, "m") == []
    mailbox = router.declare_mailbox("m")
    assert _route(router, default, "m") == _route(router, default, "m") == ["m"]
    router.delete_mailbox(mailbox)
    assert _route(router, default, "m") == []


def test_the_default_exchange_is_not_to_be_changed() -> None:
    """It cannot be declared with options, bound, unbound, bound to, or deleted."""
    router = Router()
    default, exchange, mailbox = router.default_exchange, router.declare_exchange("x"), router.declare_mailbox("m")
    given: list[dict[str, Any]] = [{"type": "direct"}, {"alternate": "x"}, {"internal": False}]
    for options in given:
        with pytest.raises(AccessRefused, match="default exchange cannot be declared"):
            router.declare_exchange("", **options)
    for call in (router.bind, router.unbind):
        with pytest.raises(AccessRefused, match=r"default exchange cannot be (un)?bound"):
            call(default, mailbox, "m")
        with pytest.raises(AccessRefused, match=r"default exchange cannot be (un)?bound"):
            call(exchange, default, "m")
    with pytest.raises(AccessRefused, match="default exchange cannot be deleted"):
        router.delete_exchange(default)
    with pytest.raises(AccessRefused, match="default exchange cannot be bound to 'm'"):
        default.table.bind(mailbox, "m", None)
    assert default.table.is_empty


def test_the_default_exchange_caches_one_route_per_mailbox() -> None:
    """Its cache holds no keys that name nothing, and keeps those of more mailboxes than another exchange's would."""
    router = Router()
    names = [f"m{number}" for number in range(ROUTES_CACHED + 10)]
    for name in names:
        router.declare_mailbox(name)
    for name in names:
        router.route(router.default_exchange, name, None)
        router.route(router.default_exchange, name + "?", None)
    assert list(router.default_exchange.routes) == names


# Binding


def test_binding_says_whether_it_is_new() -> None:
    """Binding again is no error and changes nothing; so is unbinding what is not there."""
    router = Router()
    exchange, mailbox = router.declare_exchange("x"), router.declare_mailbox("m")
    assert [router.bind(exchange, mailbox, "k"), router.bind(exchange, mailbox, "k", {})] == [True, False]
    assert [router.unbind(exchange, mailbox, "k"), router.unbind(exchange, mailbox, "k")] == [True, False]
    assert _route(router, exchange, "k") == []


def test_ends_of_another_mesh_are_refused() -> None:
    """Both ends of a binding are of one router, also when another one has the same names."""
    here, there = Router(), Router()
    ends = [(router.declare_exchange("x"), router.declare_mailbox("m")) for router in (here, there)]
    with pytest.raises(InvalidBinding, match="mailbox 'm' belongs to another mesh"):
        here.bind(ends[0][0], ends[1][1], "k")
    with pytest.raises(InvalidBinding, match="exchange 'x' belongs to another mesh"):
        here.bind(ends[1][0], ends[0][1], "k")
    with pytest.raises(InvalidBinding, match="exchange 'x' belongs to another mesh"):
        here.bind(ends[0][0], ends[1][0], "k")
    assert not here.unbind(ends[0][0], ends[1][1], "k")
    assert all(exchange.table.is_empty for exchange, _ in ends)


def test_deleted_ends_are_not_found() -> None:
    """Nothing can be bound to or from what has been deleted, though another one has its name now; unbinding does nothing."""
    router = Router()
    exchange, mailbox, other = router.declare_exchange("x"), router.declare_mailbox("m"), router.declare_exchange("y")
    router.delete_exchange(exchange)
    router.delete_mailbox(mailbox)
    router.declare_exchange("x")
    router.declare_mailbox("m")
    for source, destination, text in (
        (exchange, other, "exchange 'x'"),
        (other, exchange, "exchange 'x'"),
        (other, mailbox, "mailbox 'm'"),
    ):
        with pytest.raises(NotFound, match=f"{text} has been deleted"):
            router.bind(source, destination, "k")
        assert not router.unbind(source, destination, "k")


def test_a_binding_key_is_at_most_255_bytes() -> None:
    """A longer key is refused; 255 bytes are not too long."""
    router = Router()
    exchange, mailbox = router.declare_exchange("x"), router.declare_mailbox("m")
    with pytest.raises(ValueError, match=r"a binding key must be at most 255 bytes of UTF-8, but .* has 256"):
        router.bind(exchange, mailbox, LONG)
    assert router.bind(exchange, mailbox, "ü" * 127 + "u")


# Deleting


def test_deleting_an_exchange_takes_its_bindings_along() -> None:
    """A deleted exchange routes nowhere, not to its alternate either, and nothing leads to it; a new one starts empty."""
    router = Router()
    outer, inner = router.declare_exchange("outer", "fanout"), router.declare_exchange("inner", "fanout", alternate="outer")
    mailbox = router.declare_mailbox("m")
    router.bind(outer, inner)
    router.bind(outer, router.declare_mailbox("n"))
    router.bind(inner, mailbox)
    assert _route(router, outer) == ["m", "n"]
    router.delete_exchange(inner)
    assert inner.deleted
    assert not router.has_exchange(inner)
    assert _route(router, inner) == []
    assert _route(router, outer) == ["n"]
    assert router.declare_exchange("inner") is not inner
    assert _route(router, router.declare_exchange("inner")) == []
    router.delete_exchange(inner)
    assert router.find_exchange("inner") is not None


def test_deleting_a_mailbox_takes_its_bindings_along() -> None:
    """A deleted mailbox is reached by nothing, and its name is free."""
    router = Router()
    exchange, mailbox = router.declare_exchange("x", "fanout"), router.declare_mailbox("m")
    router.bind(exchange, mailbox)
    assert _route(router, exchange) == ["m"]
    router.delete_mailbox(mailbox)
    assert mailbox.deleted
    assert exchange.table.is_empty
    assert _route(router, exchange) == []
    again = router.declare_mailbox("m")
    assert (again is mailbox, again.number) == (False, 2)
    router.delete_mailbox(mailbox)
    assert router.has_mailbox(again)


def test_conditions_of_a_deletion() -> None:
    """if_unused and if_empty raise, name what is in the way, and delete nothing while they do not hold."""
    router = Router()
    exchange, mailbox = router.declare_exchange("x"), router.declare_mailbox("m")
    router.bind(exchange, mailbox, "k")
    with pytest.raises(PreconditionFailed, match="exchange 'x' is in use: 'm' is bound to it with key 'k'"):
        router.delete_exchange(exchange, if_unused=True)
    mailbox.consumers = 1
    with pytest.raises(PreconditionFailed, match=r"mailbox 'm' is in use: it has 1 consumer"):
        router.delete_mailbox(mailbox, if_unused=True)
    mailbox.consumers = 0
    mailbox.put(Message("", 1, None))
    with pytest.raises(PreconditionFailed, match="mailbox 'm' is not empty: 1 copies are ready"):
        router.delete_mailbox(mailbox, if_empty=True)
    assert _route(router, exchange, "k") == ["m"]
    router.delete_mailbox(mailbox, if_unused=True)
    router.delete_exchange(exchange, if_unused=True)
    assert (exchange.deleted, mailbox.deleted) == (True, True)


# Routing


def test_each_mailbox_once_in_the_order_of_declaration() -> None:
    """A mailbox is found once however many bindings lead to it, and the order does not depend on the bindings."""
    router = Router()
    exchange = router.declare_exchange("x", "topic")
    mailboxes = [router.declare_mailbox(name) for name in ("c", "b", "a")]
    for mailbox in reversed(mailboxes):
        for key in ("k", "*", "#", "k.#"):
            router.bind(exchange, mailbox, key)
    assert _route(router, exchange, "k") == ["c", "b", "a"]


def test_cycles_of_exchanges_are_legal() -> None:
    """Exchanges may be bound in circles, to themselves too: each is visited once per publish."""
    router = Router()
    ring = [router.declare_exchange(f"x{number}", "fanout") for number in range(3)]
    for number, exchange in enumerate(ring):
        router.bind(exchange, ring[(number + 1) % 3])
        router.bind(exchange, exchange)
        router.bind(exchange, router.declare_mailbox(f"m{number}"))
    assert _route(router, ring[1]) == ["m0", "m1", "m2"]


def test_an_alternate_is_used_only_when_nothing_matches() -> None:
    """The alternate gets what the exchange's own list has no match for: an exchange that leads nowhere is a match."""
    router = Router()
    exchange, spare = router.declare_exchange("x", alternate="spare"), router.declare_exchange("spare", "fanout")
    router.bind(exchange, router.declare_mailbox("m"), "k")
    router.bind(exchange, router.declare_exchange("nowhere"), "n")
    router.bind(spare, router.declare_mailbox("s"))
    assert [_route(router, exchange, key) for key in ("k", "n", "other")] == [["m"], [], ["s"]]


def test_alternates_form_chains_and_rings() -> None:
    """An alternate has its own alternate; a ring of them ends; a missing one is skipped until it is declared."""
    router = Router()
    first = router.declare_exchange("first", alternate="second")
    assert _route(router, first, "m") == []
    router.declare_exchange("second", alternate="third")
    third = router.declare_exchange("third", alternate="first")
    assert _route(router, first, "m") == []
    router.bind(third, router.declare_mailbox("m"), "m")
    assert _route(router, first, "m") == ["m"]


def test_the_default_exchange_as_alternate() -> None:
    """The default exchange can be an alternate: what matches nothing goes to the mailbox named by the key."""
    router = Router()
    exchange = router.declare_exchange("x", alternate="")
    router.declare_mailbox("m")
    assert [_route(router, exchange, key) for key in ("m", "n")] == [["m"], []]


def test_an_alternate_inside_the_graph() -> None:
    """An exchange that is reached through a binding uses its alternate as if it had been published to."""
    router = Router()
    outer, inner = router.declare_exchange("outer", "fanout"), router.declare_exchange("inner", alternate="spare")
    spare = router.declare_exchange("spare", "fanout")
    router.bind(outer, inner)
    router.bind(outer, router.declare_mailbox("m"))
    router.bind(spare, router.declare_mailbox("s"))
    assert _route(router, outer, "k") == ["m", "s"]


def test_routes_are_cached_for_the_publisher() -> None:
    """After the first lookup, `exchange.routes` has the whole route, an empty one included; it stays bounded."""
    router = Router()
    exchange, mailbox = router.declare_exchange("x", "topic"), router.declare_mailbox("m")
    router.bind(exchange, mailbox, "*")
    assert router.route(exchange, "k", None) is exchange.routes["k"]
    assert exchange.routes["k"] == (mailbox,)
    for number in range(2 * ROUTES_CACHED + 5):
        router.route(exchange, f"no.{number}", None)
        assert len(exchange.routes) <= ROUTES_CACHED
    assert exchange.routes[f"no.{2 * ROUTES_CACHED + 4}"] == ()


@pytest.mark.parametrize(
    "change",
    [
        lambda router: router.bind(router.find_exchange("x"), router.find_mailbox("m"), "other"),
        lambda router: router.unbind(router.find_exchange("y"), router.find_mailbox("m"), "k"),
        lambda router: router.declare_exchange("new"),
        lambda router: router.declare_mailbox("new"),
        lambda router: router.delete_exchange(router.find_exchange("y")),
        lambda router: router.delete_mailbox(router.find_mailbox("n")),
    ],
    ids=["bind", "unbind", "declare exchange", "declare mailbox", "delete exchange", "delete mailbox"],
)
def test_every_change_forgets_every_route(change: Any) -> None:
    """Any change of the topology empties the caches of all exchanges."""
    router = Router()
    for name in ("x", "y"):
        router.bind(router.declare_exchange(name), router.declare_mailbox("m"), "k")
    router.declare_mailbox("n")
    exchanges = [router.exchanges[name] for name in ("", "x", "y")]
    for exchange in exchanges:
        router.route(exchange, "m" if exchange.name == "" else "k", None)
    assert all(exchange.routes for exchange in exchanges)
    change(router)
    assert not any(exchange.routes for exchange in exchanges)


@pytest.mark.parametrize("way", ["itself", "binding", "alternate", "alternate of a bound one"])
def test_nothing_is_cached_where_headers_have_a_say(way: str) -> None:
    """While a headers exchange can be reached, routes are looked up anew, for other keys as well; afterwards not."""
    router = Router()
    headers, mailbox = router.declare_exchange("h", "headers"), router.declare_mailbox("m")
    router.bind(headers, mailbox, "", {"tenant": "a"})
    start = headers
    if way == "binding":
        start = router.declare_exchange("x", "fanout")
        router.bind(start, headers)
    elif way == "alternate":
        start = router.declare_exchange("x", alternate="h")
    elif way == "alternate of a bound one":
        start = router.declare_exchange("x", "fanout")
        router.bind(start, router.declare_exchange("y", alternate="h"))
    assert [_route(router, start, "k", {"tenant": tenant}) for tenant in "aba"] == [["m"], [], ["m"]]
    assert _route(router, start, "k") == []
    assert start.routes == {}
    if start is not headers:
        router.delete_exchange(headers)
        assert _route(router, start, "k", {"tenant": "a"}) == []
        assert start.routes == {"k": ()}


# Against a model

EXCHANGES = ["x0", "x1", "x2", "x3"]
MAILBOXES = ["m0", "m1", "m2"]
KEYS = ["", "a", "a.b", "m0", "*"]
HEADERS: list[dict[str, Any]] = [{}, {"h": 1}, {"h": True, "x-i": "1"}, {"h": "text"}]
ends = st.one_of(
    st.tuples(st.just("exchange"), st.sampled_from(EXCHANGES)), st.tuples(st.just("mailbox"), st.sampled_from(MAILBOXES))
)
patterns = st.sampled_from([*KEYS, "#", "a.*", "*.b", "a.#", "#.b.#", "1", "3"])
all_arguments = st.sampled_from(
    [(), (("h", 1),), (("h", None),), (("x-match", "any"), ("h", True)), (("x-match", "any-with-x"), ("x-i", "1"))]
)
Link = tuple[str, tuple[str, str], str, tuple[tuple[str, Any], ...]]


class Topologies(RuleBasedStateMachine):
    """Declare, bind, unbind and delete at random, beside a model that is a list of bindings searched from end to end."""

    def __init__(self) -> None:
        super().__init__()
        self.router = Router()
        self.exchanges: dict[str, tuple[str, str | None]] = {}
        self.mailboxes: list[str] = []
        self.links: list[Link] = []

    def core(self, end: tuple[str, str]) -> Exchange | Mailbox | None:
        kind, name = end
        return self.router.find_exchange(name) if kind == "exchange" else self.router.find_mailbox(name)

    def hashed(self, name: str, value: bytes) -> list[tuple[str, str]]:
        """One of all that is bound, by the weight that was bound first."""
        ends = dict(reversed([(" ".join(link[1]), link) for link in self.links if link[0] == name]))
        return [ends[belongs(value, {end: int(link[2]) for end, link in ends.items()})][1]] if ends else []

    def own_matches(self, name: str, key: str, headers: dict[str, Any]) -> list[tuple[str, str]]:
        if name == "":
            return [("mailbox", key)] if key in self.mailboxes else []
        if self.exchanges[name][0] == "hash":
            return self.hashed(name, key.encode())
        if self.exchanges[name][0] == "hash by h":
            value = headers.get("h")
            return self.hashed(name, value.encode() if isinstance(value, str) else json.dumps(value).encode())
        holds = {
            "direct": lambda link: link[2] == key,
            "fanout": lambda _link: True,
            "topic": lambda link: fits(link[2], key),
            "headers": lambda link: meets(dict(link[3]), headers),
        }[self.exchanges[name][0]]
        return [link[1] for link in self.links if link[0] == name and holds(link)]

    def expected(self, start: str, key: str, headers: dict[str, Any]) -> set[str]:
        found, visited = set[str](), set[str]()

        def visit(name: str) -> None:
            if name in visited or (name and name not in self.exchanges):
                return
            visited.add(name)
            matched = self.own_matches(name, key, headers)
            alternate = self.exchanges[name][1] if name else None
            if not matched and alternate is not None:
                visit(alternate)
            for kind, end in matched:
                if kind == "mailbox":
                    found.add(end)
                else:
                    visit(end)

        visit(start)
        return found

    def sees_headers(self, start: str) -> bool:
        reached = [start]
        for name in reached:
            if name in self.exchanges:
                ends = [link[1][1] for link in self.links if link[0] == name and link[1][0] == "exchange"]
                reached += [end for end in [*ends, self.exchanges[name][1]] if end is not None and end not in reached]
        return any(self.exchanges[name][0] in ("headers", "hash by h") for name in reached if name in self.exchanges)

    @initialize()
    def begin_with_something(self) -> None:
        self.declare_exchange("x0", "topic", "x1")
        self.declare_exchange("x1", "fanout", None)
        self.declare_mailbox("m0")

    @rule(
        name=st.sampled_from(EXCHANGES),
        type=st.sampled_from(["direct", "fanout", "topic", "headers", "hash", "hash by h"]),
        alternate=st.sampled_from([None, "", *EXCHANGES]),
    )
    def declare_exchange(self, name: str, type: str, alternate: str | None) -> None:
        real, arguments = ("hash", {"hash-header": "h"}) if type == "hash by h" else (type, None)
        if self.exchanges.get(name, (type, alternate)) == (type, alternate):
            exchange = self.router.declare_exchange(name, real, alternate=alternate, arguments=arguments)
            assert exchange is self.router.find_exchange(name)
            self.exchanges[name] = (type, alternate)
        else:
            with pytest.raises(PreconditionFailed):
                self.router.declare_exchange(name, real, alternate=alternate, arguments=arguments)

    @rule(name=st.sampled_from(MAILBOXES))
    def declare_mailbox(self, name: str) -> None:
        assert self.router.declare_mailbox(name) is self.router.find_mailbox(name)
        if name not in self.mailboxes:
            self.mailboxes.append(name)

    @rule(source=st.sampled_from(EXCHANGES), end=ends, key=patterns, arguments=all_arguments)
    def bind(self, source: str, end: tuple[str, str], key: str, arguments: tuple[tuple[str, Any], ...]) -> None:
        exchange, destination = self.router.find_exchange(source), self.core(end)
        if exchange is None or destination is None:
            return
        link = (source, end, key, arguments)
        is_new = not any(repr(link) == repr(other) for other in self.links)  # repr: 1 is not True
        if self.exchanges[source][0].startswith("hash") and key not in ("1", "3"):
            with pytest.raises(InvalidBinding):
                self.router.bind(exchange, destination, key, dict(arguments))
            return
        assert self.router.bind(exchange, destination, key, dict(reversed(arguments))) is is_new
        if is_new:
            self.links.append(link)

    @precondition(lambda self: self.links)
    @rule(data=st.data())
    def unbind(self, data: st.DataObject) -> None:
        source, end, key, arguments = link = data.draw(st.sampled_from(self.links))
        exchange, destination = self.router.find_exchange(source), self.core(end)
        assert exchange is not None
        assert destination is not None
        assert not self.router.unbind(exchange, destination, key, {**dict(arguments), "more": 1})
        assert self.router.unbind(exchange, destination, key, dict(arguments))
        self.links = [other for other in self.links if other is not link]

    @rule(name=st.sampled_from(EXCHANGES), if_unused=st.booleans())
    def delete_exchange(self, name: str, if_unused: bool) -> None:
        exchange = self.router.find_exchange(name)
        if exchange is None:
            return
        if if_unused and any(link[0] == name for link in self.links):
            with pytest.raises(PreconditionFailed):
                self.router.delete_exchange(exchange, if_unused=True)
            return
        self.router.delete_exchange(exchange, if_unused=if_unused)
        del self.exchanges[name]
        self.links = [link for link in self.links if link[0] != name and link[1] != ("exchange", name)]
        assert self.router.route(exchange, "a", {}) == ()

    @rule(name=st.sampled_from(MAILBOXES))
    def delete_mailbox(self, name: str) -> None:
        mailbox = self.router.find_mailbox(name)
        if mailbox is None:
            return
        self.router.delete_mailbox(mailbox)
        self.mailboxes.remove(name)
        self.links = [link for link in self.links if link[1] != ("mailbox", name)]

    @rule(key=st.sampled_from(KEYS), headers=st.sampled_from(HEADERS))
    def publish(self, key: str, headers: dict[str, Any]) -> None:
        for name, exchange in self.router.exchanges.items():
            for _ in range(2):  # found, then perhaps cached
                found = self.router.route(exchange, key, headers)
                assert [mailbox.number for mailbox in found] == sorted({mailbox.number for mailbox in found})
                assert {mailbox.name for mailbox in found} == self.expected(name, key, headers)

    @invariant()
    def the_topologies_are_equal(self) -> None:
        """The same things are declared, and bound in the same order."""
        assert list(self.router.exchanges) == ["", *self.exchanges]
        assert list(self.router.mailboxes) == self.mailboxes
        for name in self.exchanges:
            listed = [
                (each.destination.name, each.key, each.arguments) for each in self.router.exchanges[name].table.bindings()
            ]
            assert repr(listed) == repr(
                [(link[1][1], link[2], dict(reversed(link[3]))) for link in self.links if link[0] == name]
            )

    @invariant()
    def cached_routes_are_never_old(self) -> None:
        """What is cached is what the model finds now, and nothing is where headers have a say."""
        for name, exchange in self.router.exchanges.items():
            assert not (exchange.routes and self.sees_headers(name))
            for key, found in exchange.routes.items():
                assert {mailbox.name for mailbox in found} == self.expected(name, key, {})


TestTopologies = Topologies.TestCase
TestTopologies.settings = settings(stateful_step_count=40)
