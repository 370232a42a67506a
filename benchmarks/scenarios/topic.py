"""S4: what one topic route costs, on the router itself.

Patterns have four words, each one of fifty; a tenth of the patterns has a `*` in place of one word.  Warm: keys that have been
routed before; the size of the table must not show.  Miss: keys that have not.  The topology is built anew for each run, so that
a miss is one.
"""

from collections.abc import Sequence
from random import Random
from time import perf_counter_ns

from benchmarks.harness import Bound, Figure, Scenario
from benchmarks.workload import scaled, started
from flowmesh._core.exchanges import Exchange
from flowmesh._core.router import Router

__all__ = ["TOPIC"]

_WORDS = 50
_LENGTH = 4
_SMALL = 1_000
_LARGE = 100_000
_MAILBOXES = 1_000
_HOT_KEYS = 200
_ROUNDS = 250
_MISSES = 20_000


def _words(number: int) -> list[str]:
    """Return the words of the key of that number: its digits to base fifty."""
    words: list[str] = []
    for place in range(_LENGTH):
        number, digit = divmod(number, _WORDS)
        words.append(f"{'abcd'[place]}{digit}")
    return words


def _patterns(count: int, chance: Random) -> list[str]:
    patterns: list[str] = []
    for index, number in enumerate(chance.sample(range(_WORDS**_LENGTH), count)):
        words = _words(number)
        if index % 10 == 0:
            words[chance.randrange(_LENGTH)] = "*"
        patterns.append(".".join(words))
    return patterns


def _topology(bindings: int, chance: Random) -> tuple[Router, Exchange]:
    """Build a router with one topic exchange and that many bindings, spread evenly over the mailboxes."""
    router = Router()
    exchange = router.declare_exchange("topics", "topic")
    mailboxes = [router.declare_mailbox(f"mailbox-{number}") for number in range(min(bindings, _MAILBOXES))]
    for index, pattern in enumerate(_patterns(bindings, chance)):
        router.bind(exchange, mailboxes[index % len(mailboxes)], pattern)
    return router, exchange


def _keys(count: int, chance: Random) -> list[str]:
    return [".".join(_words(number)) for number in chance.sample(range(_WORDS**_LENGTH), count)]


def _time_routes(router: Router, exchange: Exchange, keys: Sequence[str], *, rounds: int = 1) -> float:
    route = router.route
    start = started()
    for _ in range(rounds):
        for key in keys:
            route(exchange, key, None)
    return (perf_counter_ns() - start) / (len(keys) * rounds)


def _time_warm(router: Router, exchange: Exchange, scale: float, chance: Random) -> float:
    hot = _keys(_HOT_KEYS, chance)
    for key in hot:
        router.route(exchange, key, None)
    return _time_routes(router, exchange, hot, rounds=scaled(_ROUNDS, scale))


async def _topic(scale: float) -> Sequence[float]:
    chance = Random(4)
    router, exchange = _topology(scaled(_SMALL, scale), chance)
    warm_small = _time_warm(router, exchange, scale, chance)
    router, exchange = _topology(scaled(_LARGE, scale), chance)
    missed = _time_routes(router, exchange, _keys(scaled(_MISSES, scale), chance))
    warm_large = _time_warm(router, exchange, scale, chance)
    return warm_small, warm_large, missed


_WARM = Bound(0.4, 0.2)

TOPIC = Scenario(
    "S4",
    "topic route, four words of fifty",
    (
        Figure.alike(f"warm, {_SMALL:,} bindings", "x", _WARM),
        Figure.alike(f"warm, {_LARGE:,} bindings", "x", _WARM),
        Figure.alike(f"miss, {_LARGE:,} bindings", "x", Bound(9.0, 6.0)),
    ),
    _topic,
    ("core",),
)
