"""What is declared and bound, as a value: to be drawn (Mermaid, DOT), to be read by programs (JSON), to be compared.

Read from the router itself, so it shows what routing does.  Everything is in the order of names, so equal topologies give
equal texts.  Names, keys and arguments are foreign text: each format gets them escaped, and control characters are shown as
backslash escapes.  An alternate or dead-letter exchange that is not declared is drawn all the same, and says so.
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import Any, Final, Literal

from msgspec import Struct, to_builtins

from flowmesh._core.exchanges import Exchange
from flowmesh._core.rings import rings_in
from flowmesh._core.router import Router
from flowmesh.policies import MailboxOptions

__all__ = ["DeclaredBinding", "DeclaredExchange", "DeclaredMailbox", "ObservedSend", "Ring", "Topology", "describe"]


class DeclaredExchange(Struct, frozen=True):
    """One exchange: `alternate` names another one, which need not be declared; `arguments`: what its type was told."""

    name: str
    type: str
    alternate: str | None
    internal: bool
    arguments: Mapping[str, Any] = {}


class DeclaredMailbox(Struct, frozen=True):
    """One mailbox, and the names of the actors that are fed from it."""

    name: str
    options: MailboxOptions
    actors: tuple[str, ...]


class DeclaredBinding(Struct, frozen=True):
    """One binding, from the exchange `source` to an exchange or mailbox; values that JSON cannot say stand as their repr."""

    source: str
    destination: str
    destination_type: Literal["exchange", "mailbox"]
    key: str
    arguments: Mapping[str, Any]


class ObservedSend(Struct, frozen=True):
    """A turn of `actor` has sent to `mailbox`: it asked, waited for room, or collected an output with its Context."""

    actor: str
    mailbox: str


class Ring(Struct, frozen=True):
    """A way that leads back to where it began: what it passes, as (kind, name), from the first place on.

    Its text is `mailbox 'a' -> actor 'a' -> mailbox 'a'`.
    """

    places: tuple[tuple[Literal["exchange", "mailbox", "actor"], str], ...]

    def __str__(self) -> str:
        return " -> ".join(f"{kind} {name!r}" for kind, name in (*self.places, self.places[0]))


class Topology(Struct, frozen=True, omit_defaults=True):
    """What is declared and bound at one moment.

    The default exchange, which leads to every mailbox by name, is left out. `sends`: what has been seen of who sends to whom
    since the mesh was made; a send that found room at once is not seen. `instances`: how many there are at the moment, of each
    class actor with `by=`.
    """

    exchanges: tuple[DeclaredExchange, ...]
    mailboxes: tuple[DeclaredMailbox, ...]
    bindings: tuple[DeclaredBinding, ...]
    sends: tuple[ObservedSend, ...] = ()
    instances: Mapping[str, int] = {}

    def rings(self) -> tuple[Ring, ...]:
        """Return the rings of exchanges, mailboxes and actors in which every mailbox makes its senders wait.

        Ways are bindings, whatever their keys, alternates, dead-letter exchanges, from a mailbox to its actors, and from an
        actor to where its turns have been seen to send (`sends`): nothing is known of a mesh that has not run. A ring through
        dead letters alone blocks nobody, but a message that keeps failing goes round in it. A mailbox that rejects or drops
        breaks a ring. Of the rings through each place a shortest one is listed.
        """
        return tuple(Ring(tuple(ring)) for ring in rings_in(_ways(self)) if any(kind == "mailbox" for kind, _ in ring))

    def mermaid(self) -> str:
        """Return a Mermaid flowchart."""
        nodes, edges = _graph(self)
        lines = ["flowchart LR"]
        for number, node in enumerate(nodes.values()):
            opening, closing = _MERMAID_SHAPES[node.kind]
            lines.append(f'    n{number}{opening}"{_mermaid_text(node.label)}"{closing}')
        numbers = {place: number for number, place in enumerate(nodes)}
        for edge in edges:
            arrow = "-->" if edge.is_binding else "-.->"
            label = f'|"{_mermaid_text(edge.label)}"|' if edge.label else ""
            lines.append(f"    n{numbers[edge.source]} {arrow}{label} n{numbers[edge.target]}")
        return "\n".join(lines) + "\n"

    def dot(self) -> str:
        """Return a digraph in Graphviz's DOT language."""
        nodes, edges = _graph(self)
        lines = ["digraph topology {", "    rankdir=LR;"]
        for number, node in enumerate(nodes.values()):
            lines.append(f"    n{number} [label={_dot_text(node.label)}, {_DOT_SHAPES[node.kind]}];")
        numbers = {place: number for number, place in enumerate(nodes)}
        for edge in edges:
            style = "" if edge.is_binding else ", style=dashed"
            lines.append(f"    n{numbers[edge.source]} -> n{numbers[edge.target]} [label={_dot_text(edge.label)}{style}];")
        return "\n".join([*lines, "}"]) + "\n"

    def json(self) -> str:
        """Return a JSON object: lists of `exchanges`, `mailboxes` and `bindings`, with the fields of their types. In ASCII."""
        return json.dumps(to_builtins(self), indent=2)


def describe(
    router: Router,
    actors: Mapping[str, Sequence[str]],
    sends: Iterable[tuple[str, str]] = (),
    instances: Mapping[str, int] | None = None,
) -> Topology:
    """Return what is declared in the router.

    Args:
        router: what to read.
        actors: the names of the actors that each mailbox feeds, by its name.
        sends: which actor's turns have been seen to send to which mailbox.
        instances: how many there are of each actor that has one for each value of `by=`.
    """
    exchanges = sorted(
        (exchange for exchange in router.exchanges.values() if exchange is not router.default_exchange),
        key=lambda exchange: exchange.name,
    )
    bindings = [
        DeclaredBinding(
            exchange.name,
            binding.destination.name,
            "exchange" if isinstance(binding.destination, Exchange) else "mailbox",
            binding.key,
            {name: _plain(binding.arguments[name]) for name in sorted(binding.arguments)},
        )
        for exchange in exchanges
        for binding in exchange.table.bindings()
    ]
    return Topology(
        tuple(
            DeclaredExchange(each.name, each.type, each.alternate, each.internal, dict(each.arguments)) for each in exchanges
        ),
        tuple(
            DeclaredMailbox(mailbox.name, mailbox.options, tuple(sorted(actors.get(mailbox.name, ()))))
            for mailbox in sorted(router.mailboxes.values(), key=lambda mailbox: mailbox.name)
        ),
        tuple(sorted(bindings, key=_order)),
        tuple(ObservedSend(actor, mailbox) for actor, mailbox in sorted(sends)),
        dict(sorted((instances or {}).items())),
    )


def _order(binding: DeclaredBinding) -> tuple[str, ...]:
    return binding.source, binding.destination_type, binding.destination, binding.key, json.dumps(binding.arguments)


def _plain(value: Any) -> Any:
    """Return an argument's value as JSON can say it, or what it is in Python's notation."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float) and isfinite(value):
        return float(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]  # pyright: ignore[reportUnknownVariableType] - of anything
    if isinstance(value, dict):
        items = {name if isinstance(name, str) else repr(name): _plain(item) for name, item in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] - of anything
        return dict(sorted(items.items()))
    return repr(value)


_Step = tuple[Literal["exchange", "mailbox", "actor"], str]


def _ways(topology: Topology) -> dict[_Step, list[_Step]]:
    """Return what leads where, without the mailboxes that never make a sender wait."""
    waiting = {mailbox.name: mailbox for mailbox in topology.mailboxes if mailbox.options.overflow == "wait"}
    ways: dict[_Step, list[_Step]] = {("exchange", ""): [("mailbox", name) for name in waiting]}

    def lead(source: _Step, target: _Step) -> None:
        if target[0] != "mailbox" or target[1] in waiting:
            ways.setdefault(source, []).append(target)

    for binding in topology.bindings:
        lead(("exchange", binding.source), (binding.destination_type, binding.destination))
    for exchange in topology.exchanges:
        if exchange.alternate is not None:
            lead(("exchange", exchange.name), ("exchange", exchange.alternate))
    for mailbox in waiting.values():
        key, letters = mailbox.options.dead_letter_key, mailbox.options.dead_letter_name
        if letters == "":
            lead(("mailbox", mailbox.name), ("mailbox", mailbox.name if key is None else key))
        elif letters is not None:
            lead(("mailbox", mailbox.name), ("exchange", letters))
        for actor in mailbox.actors:
            lead(("mailbox", mailbox.name), ("actor", actor))
    for send in topology.sends:
        lead(("actor", send.actor), ("mailbox", send.mailbox))
    return ways


# Drawing

_Kind = Literal["exchange", "mailbox", "actor", "missing"]
_Place = tuple[_Kind, str]

_MERMAID_SHAPES: Final[Mapping[_Kind, tuple[str, str]]] = {
    "exchange": ("{{", "}}"),
    "mailbox": ("[", "]"),
    "actor": ("([", "])"),
    "missing": ("{{", "}}"),
}
_DOT_SHAPES: Final[Mapping[_Kind, str]] = {
    "exchange": "shape=hexagon",
    "mailbox": "shape=box",
    "actor": "shape=oval",
    "missing": "shape=hexagon, style=dotted",
}
_MERMAID_NAMED: Final = {'"': "#quot;", "&": "#amp;", "<": "#lt;", ">": "#gt;"}
_MERMAID_ACTIVE: Final = re.compile(
    r"""[!"#$%&'*+:;<>?@\[\\\]^`{|}~]"""  # ":" and "@" make links, and with "fa" icons
    r"|(?<![^\W_])_|_(?![^\W_])"  # an emphasis begins or ends; snake_case does not
    r"|(?<=[wW]{3})\."  # a link
    r"|^[ -]|^\d(?=\d*[.)])"  # a list, a rule or a block of code
)
"""What means something in a Mermaid text: `#` begins an escape, and the text is read as Markdown although it is quoted."""


class _Node(Struct, frozen=True):
    kind: _Kind
    label: str


class _Edge(Struct, frozen=True):
    source: _Place
    target: _Place
    label: str
    is_binding: bool


def _graph(topology: Topology) -> tuple[dict[_Place, _Node], list[_Edge]]:
    """Return what is to be drawn: nodes by what they stand for, and edges between them."""
    nodes: dict[_Place, _Node] = {}
    edges: list[_Edge] = []

    def exchange_place(name: str) -> _Place:
        if ("exchange", name) in nodes:
            return ("exchange", name)
        label = f"{name} (not declared)" if name else "(default exchange)"
        nodes.setdefault(("missing", name), _Node("missing" if name else "exchange", label))
        return ("missing", name)

    for exchange in topology.exchanges:
        traits = f"{exchange.type}, internal" if exchange.internal else exchange.type
        nodes["exchange", exchange.name] = _Node("exchange", f"{exchange.name} ({traits})")
    for mailbox in topology.mailboxes:
        nodes["mailbox", mailbox.name] = _Node("mailbox", mailbox.name)
        for actor in mailbox.actors:
            count = topology.instances.get(actor)
            nodes["actor", actor] = _Node("actor", actor if count is None else f"{actor} (instances: {count})")
            edges.append(_Edge(("mailbox", mailbox.name), ("actor", actor), "", is_binding=True))
    for binding in topology.bindings:
        label = " ".join([binding.key, *(f"{name}={json.dumps(value)}" for name, value in binding.arguments.items())]).strip()
        target: _Place = (binding.destination_type, binding.destination)
        edges.append(_Edge(("exchange", binding.source), target, label, is_binding=True))
    for exchange in topology.exchanges:
        if exchange.alternate is not None:
            target = exchange_place(exchange.alternate)
            edges.append(_Edge(("exchange", exchange.name), target, "alternate", is_binding=False))
    for mailbox in topology.mailboxes:
        name = mailbox.options.dead_letter_name
        if name is not None:
            key = mailbox.options.dead_letter_key
            label = "dead letters" if key is None else f"dead letters, key {key}"
            edges.append(_Edge(("mailbox", mailbox.name), exchange_place(name), label, is_binding=False))
    return nodes, edges


def _visible(text: str) -> str:
    r"""Show control, format and other unprintable characters as escapes: a newline as \n."""
    return "".join(
        character.encode("unicode_escape").decode() if unicodedata.category(character) in _UNPRINTABLE else character
        for character in text
    )


_UNPRINTABLE: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def _mermaid_text(text: str) -> str:
    return _MERMAID_ACTIVE.sub(lambda found: _MERMAID_NAMED.get(found[0], f"#{ord(found[0])};"), _visible(text))


def _dot_text(text: str) -> str:
    # Graphviz reads HTML entities in every label.
    return '"' + _visible(text).replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"') + '"'
