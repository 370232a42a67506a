"""What is said about an actor, checked where it is said: each option's value, and which go together.

A wrong value is refused with what the option takes and, where it can be told, how to write what was meant.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, get_args

from flowmesh._runtime.mailbox import Mailbox
from flowmesh._runtime.middleware import checked_middleware
from flowmesh.checks import is_number, is_seconds, is_whole, require, require_by, suggestion
from flowmesh.policies import Autoscale, Batch, Debounce, Gate, Limit, MailboxOptions, Restart, Retry

__all__ = ["check_gathering", "check_options"]


def check_options(options: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Check each option by itself; None is as good as nothing. What is wrong with one names the actor, if `name=` does.

    Args:
        options: what was said.
        known: what can be said, by name.

    Raises:
        TypeError: an unknown option, naming the one that was meant.
        ValueError: a value that an option does not take.
        InvalidHandler: a middleware that is none.
    """
    whose = f" of actor {options['name']!r}" if options.get("name") else ""
    for name, value in options.items():
        if name not in known:
            unknown = f"unknown option {name!r}{whose}" if whose else f"unknown actor option {name!r}"
            raise TypeError(f"{unknown}{_elsewhere(name) or suggestion(name, known)}")
        if value is None:
            continue
        if name == "by":
            require_by(value, whose=whose)
        elif name == "middleware":
            checked_middleware(value)
        elif name in _TAKES:
            fits, what, written = _TAKES[name]
            require(fits(value), name, what, value, written=written(value), whose=whose)


def check_gathering(name: str, options: Mapping[str, Any]) -> None:
    """Check what an actor says about batches and bursts, against the rest of it.

    Raises:
        ValueError: two options that do not go together.
    """
    batch, debounce = options.get("batch"), options.get("debounce")
    if batch is not None and debounce is not None:
        raise ValueError(f"actor {name!r} cannot have both batch= and debounce=: let the one tell an actor with the other")
    gates: Sequence[Any] = options.get("gates") or ()
    if debounce is not None and gates:
        raise ValueError(
            f"actor {name!r} cannot have gates= beside debounce=, for they would hold what the latest one stands for: give the "
            "gates to an actor of its own, and let the debounced one tell it"
        )
    if batch is not None and any(isinstance(gate, Limit) for gate in gates):
        raise ValueError(
            f"actor {name!r} cannot have a Limit beside batch=: concurrency= is the number of batches at once, and "
            "Batch(..., by=...) makes it one for each value"
        )
    if (batch or debounce) is not None and options.get("by") is not None:
        option, kind = ("batch", "Batch") if batch is not None else ("debounce", "Debounce")
        raise ValueError(f"actor {name!r} has {option}=, which keeps values apart and in order itself: say {kind}(..., by=...)")
    mailbox = options.get("mailbox")
    capacity = (
        MailboxOptions() if mailbox is None else mailbox if isinstance(mailbox, MailboxOptions) else mailbox.core.options
    ).capacity
    if batch is not None and batch.size > capacity:
        raise ValueError(
            f"actor {name!r} would never get a full batch: its mailbox has room for {capacity} messages, size is {batch.size}"
        )


def _elsewhere(name: str) -> str:
    """Return where an option belongs that is one of a policy's."""
    for option, kind in (("mailbox", MailboxOptions), ("retry", Retry)):
        if name in kind.__struct_fields__:
            return f", which is one of {kind.__name__}: write {option}={kind.__name__}({name}=...)"
    return ""


def _are_gates(value: Any) -> bool:
    return isinstance(value, Sequence) and all(isinstance(gate, Gate) for gate in value)  # pyright: ignore[reportUnknownVariableType] - of anything


def _gates_written(value: Any) -> str:
    gates: list[Any] = list(value) if isinstance(value, list | tuple) else [value]  # pyright: ignore[reportUnknownArgumentType] - of anything
    written = [_gate_written(gate) for gate in gates]
    return f"gates=[{', '.join(written)}]" if all(written) else ""


def _gate_written(gate: Any) -> str:
    if isinstance(gate, Gate):
        return f"{type(gate).__name__}(...)"
    return (gate.written or f"{gate.__name__}()") if gate in get_args(Gate) else ""


def _mailbox_written(value: Any) -> str:
    if isinstance(value, str):
        return f"mailbox=mesh.mailbox({value!r})"
    return f"mailbox=MailboxOptions(capacity={value})" if is_whole(value) else ""


def _counted(name: str, kind: type[Retry | Restart]) -> Callable[[Any], str]:
    """Return what writes a policy whose first option is a number, for those who gave the number, or the class."""

    def written(value: Any) -> str:
        return f"{name}={kind.__name__}({value})" if is_whole(value) else f"{name}={kind.__name__}()" if value is kind else ""

    return written


_TAKES: Final[Mapping[str, tuple[Callable[[Any], bool], str, Callable[[Any], str]]]] = {
    "concurrency": (
        lambda value: isinstance(value, Autoscale) or (is_whole(value) and value >= 1),
        "a whole number of at least 1, or Autoscale",
        lambda value: "concurrency=Autoscale()" if value is Autoscale else "",
    ),
    "timeout": (lambda value: is_number(value) and value > 0, "more than zero seconds, or None", lambda _: ""),
    "retry": (lambda value: isinstance(value, Retry), "a Retry, or None", _counted("retry", Retry)),
    "restart": (lambda value: isinstance(value, Restart), "a Restart, or None", _counted("restart", Restart)),
    "mailbox": (lambda value: isinstance(value, MailboxOptions | Mailbox), "MailboxOptions or a Mailbox", _mailbox_written),
    "batch": (lambda value: isinstance(value, Batch), "a Batch", lambda _: f"batch={Batch.written}"),
    "debounce": (lambda value: isinstance(value, Debounce), "a Debounce, or None", lambda _: f"debounce={Debounce.written}"),
    "idle": (lambda value: is_seconds(value) and value > 0, "more than zero seconds, or None", lambda _: ""),
    "max_active": (lambda value: is_whole(value) and value >= 1, "a whole number of at least 1, or None", lambda _: ""),
    "gates": (_are_gates, "a list of Rate, Limit, Breaker and Once", _gates_written),
}
"""Option -> whether a value fits, what it takes, and how to write what was probably meant ('' when nobody knows)."""
