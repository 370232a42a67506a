"""The topology as a value and as text: complete, in a fixed order, and safe for any name."""

import json
import re
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmesh._core.router import Router
from flowmesh._core.topology import DeclaredBinding, DeclaredExchange, Topology, describe
from flowmesh.policies import MailboxOptions

MERMAID_TEXT = r'"(?:[^"&<>#`%;\\{}\[\]|\x00-\x1f]|#(?:\d+|quot|amp|lt|gt);)*"'
MERMAID_LINE = re.compile(
    rf"    n\d+(?:\[{MERMAID_TEXT}\]|\{{\{{{MERMAID_TEXT}\}}\}}|\(\[{MERMAID_TEXT}\]\))"
    rf"|    n\d+ (?:-->|-\.->)(?:\|{MERMAID_TEXT}\|)? n\d+"
)
DOT_TEXT = r'"(?:[^"\\\x00-\x1f]|\\["\\])*"'
DOT_LINE = re.compile(
    rf"    n\d+ \[label={DOT_TEXT}, shape=\w+(?:, style=dotted)?\];|    n\d+ -> n\d+ \[label={DOT_TEXT}(?:, style=dashed)?\];"
)
NASTY = [
    '"]; n0 --> n1',
    "a\nb\r\x00",
    "<b>&amp;</b>",
    "🙂 ünïcode",
    "#quot; `code` %%{init}%%",
    "back\\slash\\",
    "{{x}} [y] (z)",
    "\u2028\u202e",
    "*.order.*",
    "__init__ _x_",
    "fa:fa-car https://a.b www.c.d e@f",
    "1. list",
    "- list",
    "    code",
]


def small() -> Topology:
    """Describe a topology with one of everything."""
    router = Router()
    orders = router.declare_exchange("orders", "topic", alternate="lost")
    audit = router.declare_exchange("audit", "headers", internal=True)
    router.declare_exchange("dead", "fanout", alternate="")
    bills = router.declare_mailbox("bills", MailboxOptions(dead_letter="dead", dead_letter_key="d"))
    router.declare_mailbox("idle", MailboxOptions(dead_letter="gone"))
    router.bind(orders, bills, "order.#")
    router.bind(orders, audit, "#")
    router.bind(audit, bills, "", {"x-match": "any", "tenant": "a"})
    return describe(router, {"bills": ["second", "first"]})


def test_it_says_what_is_declared() -> None:
    """Exchanges, mailboxes with their actors, and bindings are there by name; the default exchange is understood."""
    topology = small()
    assert topology.exchanges == (
        DeclaredExchange("audit", "headers", None, internal=True),
        DeclaredExchange("dead", "fanout", "", internal=False),
        DeclaredExchange("orders", "topic", "lost", internal=False),
    )
    assert [(mailbox.name, mailbox.actors) for mailbox in topology.mailboxes] == [("bills", ("first", "second")), ("idle", ())]
    assert topology.bindings == (
        DeclaredBinding("audit", "bills", "mailbox", "", {"tenant": "a", "x-match": "any"}),
        DeclaredBinding("orders", "audit", "exchange", "#", {}),
        DeclaredBinding("orders", "bills", "mailbox", "order.#", {}),
    )


def test_mermaid() -> None:
    """The flowchart has a node for each thing, an arrow for each binding, a dotted one for alternates and dead letters."""
    assert small().mermaid().splitlines() == [
        "flowchart LR",
        '    n0{{"audit (headers, internal)"}}',
        '    n1{{"dead (fanout)"}}',
        '    n2{{"orders (topic)"}}',
        '    n3["bills"]',
        '    n4(["first"])',
        '    n5(["second"])',
        '    n6["idle"]',
        '    n7{{"(default exchange)"}}',
        '    n8{{"lost (not declared)"}}',
        '    n9{{"gone (not declared)"}}',
        "    n3 --> n4",
        "    n3 --> n5",
        '    n0 -->|"tenant=#quot;a#quot; x-match=#quot;any#quot;"| n3',
        '    n2 -->|"#35;"| n0',
        '    n2 -->|"order.#35;"| n3',
        '    n1 -.->|"alternate"| n7',
        '    n2 -.->|"alternate"| n8',
        '    n3 -.->|"dead letters, key d"| n1',
        '    n6 -.->|"dead letters"| n9',
    ]


def test_dot() -> None:
    """The digraph has the same nodes and edges."""
    lines = small().dot().splitlines()
    assert lines[:3] == ["digraph topology {", "    rankdir=LR;", '    n0 [label="audit (headers, internal)", shape=hexagon];']
    assert '    n0 -> n3 [label="tenant=\\"a\\" x-match=\\"any\\""];' in lines
    assert '    n9 [label="gone (not declared)", shape=hexagon, style=dotted];' in lines
    assert lines[-2:] == ['    n6 -> n9 [label="dead letters", style=dashed];', "}"]
    assert all(DOT_LINE.fullmatch(line) for line in lines[2:-1])


def test_json() -> None:
    """The JSON has what the value has, with the mailboxes' options."""
    read = json.loads(small().json())
    assert read["exchanges"][2] == {
        "name": "orders",
        "type": "topic",
        "alternate": "lost",
        "internal": False,
        "arguments": {},
    }
    assert read["mailboxes"][0]["actors"] == ["first", "second"]
    assert read["mailboxes"][0]["options"]["dead_letter"] == "dead"
    assert read["mailboxes"][0]["options"]["capacity"] == 10_000
    assert read["bindings"][0]["arguments"] == {"tenant": "a", "x-match": "any"}
    assert [binding["destination_type"] for binding in read["bindings"]] == ["mailbox", "exchange", "mailbox"]


def test_the_order_does_not_depend_on_the_declarations() -> None:
    """Topologies that were declared in another order are equal, and so are their texts."""
    texts = set[str]()
    for names in permutations("abc"):
        router = Router()
        for name in names:
            exchange, mailbox = router.declare_exchange(name, "topic"), router.declare_mailbox(name)
            for key in names:
                router.bind(exchange, mailbox, key, {key: 1, "z": 2} if name == "a" else {"z": 2, key: 1})
        topology = describe(router, {"a": names})
        texts.add(topology.mermaid() + topology.dot() + topology.json())
    assert len(texts) == 1


def test_an_empty_topology() -> None:
    """Nothing declared draws nothing, and is valid all the same."""
    topology = describe(Router(), {})
    assert topology == Topology((), (), ())
    assert topology.mermaid() == "flowchart LR\n"
    assert topology.dot() == "digraph topology {\n    rankdir=LR;\n}\n"
    assert json.loads(topology.json()) == {"exchanges": [], "mailboxes": [], "bindings": []}


def awkward(name: str, value: Any) -> Topology:
    """Put one foreign text, and one foreign value, into every place that takes one."""
    router = Router()
    exchange = router.declare_exchange(name + "x", "headers", alternate=name + "y")
    router.bind(
        exchange,
        router.declare_mailbox(name + "m", MailboxOptions(dead_letter=name, dead_letter_key=name)),
        name,
        {name: value},
    )
    return describe(router, {name + "m": [name]})


def _check_texts(topology: Topology) -> None:
    assert all(MERMAID_LINE.fullmatch(line) for line in topology.mermaid().removesuffix("\n").split("\n")[1:])
    assert all(DOT_LINE.fullmatch(line) for line in topology.dot().removesuffix("\n").split("\n")[2:-1])
    for text in (topology.mermaid(), topology.dot(), topology.json()):
        assert text.encode()
        assert text.splitlines() == text.removesuffix("\n").split("\n")


@pytest.mark.parametrize("name", NASTY)
def test_foreign_names_stay_inside_their_labels(name: str) -> None:
    """A name cannot end its label, begin another line, or be read as markup, in any of the formats."""
    topology = awkward(name, name)
    _check_texts(topology)
    assert json.loads(topology.json())["exchanges"][0]["name"] == name + "x"
    assert json.loads(topology.json())["bindings"][0]["arguments"] == {name: name}


@given(name=st.text(st.characters(codec="utf-8"), min_size=1, max_size=20), value=st.text(max_size=5))
def test_any_name_stays_inside_its_label(name: str, value: str) -> None:
    """The same for any text that can be a name, and any text at all as a value."""
    _check_texts(awkward(name, value))


@pytest.mark.parametrize(
    "name, text",
    [
        ("*.order.*", "#42;.order.#42;"),
        ("snake_case.kebab-case", "snake_case.kebab-case"),
        ("_private a_ __init__", "#95;private a#95; #95;#95;init#95;#95;"),
        ("---", "#45;--"),
        ("- item", "#45; item"),
        ("+ item", "#43; item"),
        ("12. item", "#49;2. item"),
        ("12) item", "#49;2) item"),
        ("12.5", "#49;2.5"),
        ("1 and 2.", "1 and 2."),
        ("    code", "#32;   code"),
        ("https://a.b", "https#58;//a.b"),
        ("www.a.b", "www#46;a.b"),
        ("a@b.c", "a#64;b.c"),
        ("fa:fa-car", "fa#58;fa-car"),
        ("`code`", "#96;code#96;"),
    ],
)
def test_mermaid_reads_no_markdown(name: str, text: str) -> None:
    """Mermaid reads labels as Markdown, in quotes too, and draws icons and links: names get neither."""
    assert f'(["{text}"])' in awkward(name, 1).mermaid()


def test_escapes() -> None:
    """Quotes, markup and escapes of each format are escaped; control characters are shown."""
    topology = awkward('<"#\n\\&', 1)
    assert '(["#lt;#quot;#35;#92;n#92;#amp;"])' in topology.mermaid()
    assert 'label="<\\"#\\\\n\\\\&amp;", shape=oval' in topology.dot()


@pytest.mark.parametrize(
    "value, said",
    [
        (b"raw", "b'raw'"),
        (float("inf"), "inf"),
        (1.5, 1.5),
        (None, None),
        (2**70, 2**70),
        (True, True),
        ([1, (2, b"x")], [1, [2, "b'x'"]]),
        ({"b": 1, 2: {"c": None}}, {"2": {"c": None}, "b": 1}),
        (frozenset({1}), "frozenset({1})"),
    ],
)
def test_arguments_that_json_cannot_say(value: Any, said: Any) -> None:
    """What JSON can say stays as it is, whatever else is shown in Python's notation."""
    topology = awkward("n", value)
    _check_texts(topology)
    assert json.loads(topology.json())["bindings"][0]["arguments"] == {"n": said}
