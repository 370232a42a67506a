"""The diagram of a state machine, as Mermaid's `stateDiagram-v2`, from its table.

Each transition is an arrow, named after the message types and timeouts that take it; a note says what a state postpones.  A
state's name may be any text: it is shown as it is, and stands in the diagram under a number if Mermaid could not read it.
"""

import re

from flowmesh._core.machines import Machinery

__all__ = ["diagram_of"]

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RESERVED = frozenset({"state", "note", "end", "direction", "as", "class", "classDef", "style", "default"})


def diagram_of(machinery: Machinery) -> str:
    """Return the Mermaid text of a machine."""
    names = {state: _name(state, number) for number, state in enumerate(machinery.states)}
    lines = ["stateDiagram-v2"]
    lines += [f'    state "{_text(state)}" as {name}' for state, name in names.items() if name != state]
    lines.append(f"    [*] --> {names[machinery.initial]}")
    arrows: dict[tuple[str, str], list[str]] = {}
    for source, target, by in machinery.transitions():
        arrows.setdefault((source, target), []).append(by)
    lines += [f"    {names[source]} --> {names[target]}: {_text(', '.join(by))}" for (source, target), by in arrows.items()]
    for state in machinery.states:
        postponed = machinery.postponed_in(state)
        if postponed:
            what = ", ".join(kind.__name__ for kind in postponed)
            lines.append(f"    note right of {names[state]}: postpones {_text(what)}")
    return "\n".join(lines) + "\n"


def _name(state: str, number: int) -> str:
    return state if _PLAIN.fullmatch(state) and state not in _RESERVED else f"s{number}"


def _text(text: str) -> str:
    """Return a text with what Mermaid would read as its own replaced by entities."""
    return "".join(f"#{ord(char)};" if char in '"#;:<>' or ord(char) < 32 else char for char in text)
