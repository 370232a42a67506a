"""What is declared and bound, as a value: to be drawn (Mermaid, DOT), to be read by programs (JSON), to be compared.

Read from the router itself, so it shows what routing does.  Everything is in the order of names, so equal topologies give
equal texts.  Names, keys and arguments are foreign text: each format gets them escaped, and control characters are shown as
backslash escapes.  An alternate or dead-letter exchange that is not declared is drawn all the same, and says so.
"""

import json
import unicodedata
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, Final, Literal

from msgspec import Struct, to_builtins

from flowmesh._core.exchanges import Exchange
from flowmesh._core.router import Router
from flowmesh.policies import MailboxOptions

__all__ = ["DeclaredBinding", "DeclaredExchange", "DeclaredMailbox", "Topology", "describe"]


class DeclaredExchange(Struct, frozen=True):
    """One exchange: `alternate` names another one, which need not be declared."""

    name: str
    type: str
    alternate: str | None
    internal: bool


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


class Topology(Struct, frozen=True):
    """What is declared and bound at one moment.

    The default exchange, which leads to every mailbox by name, is left out.
    """

    exchanges: tuple[DeclaredExchange, ...]
    mailboxes: tuple[DeclaredMailbox, ...]
    bindings: tuple[DeclaredBinding, ...]

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


def describe(router: Router, actors: Mapping[str, Sequence[str]]) -> Topology:
    """Return what is declared in the router.

    Args:
        router: what to read.
        actors: the names of the actors that each mailbox feeds, by its name.
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
        tuple(DeclaredExchange(each.name, each.type, each.alternate, each.internal) for each in exchanges),
        tuple(
            DeclaredMailbox(mailbox.name, mailbox.options, tuple(sorted(actors.get(mailbox.name, ()))))
            for mailbox in sorted(router.mailboxes.values(), key=lambda mailbox: mailbox.name)
        ),
        tuple(sorted(bindings, key=_order)),
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
_MERMAID_SAFE: Final = frozenset(" .,:_-+*/=()@")
"""ASCII that means nothing in a quoted Mermaid text, letters and digits aside. `#` begins an escape, "%%" a comment."""


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
            nodes["actor", actor] = _Node("actor", actor)
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
    return "".join(
        character
        if character.isalnum() or character in _MERMAID_SAFE or not character.isascii()
        else _MERMAID_NAMED.get(character, f"#{ord(character)};")
        for character in _visible(text)
    )


def _dot_text(text: str) -> str:
    # Graphviz reads HTML entities in every label.
    return '"' + _visible(text).replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"') + '"'
