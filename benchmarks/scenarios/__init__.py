"""The scenarios: each module measures one way of using the engine, through its public API."""

from benchmarks.harness import Scenario
from benchmarks.peers import PEERS
from benchmarks.scenarios.asking import ASKING
from benchmarks.scenarios.deferred import DEFERRED
from benchmarks.scenarios.durable import DURABLE
from benchmarks.scenarios.fan_out import FAN_OUT
from benchmarks.scenarios.keyed import KEYED, KEYED_MEMORY
from benchmarks.scenarios.many_actors import MANY_ACTORS
from benchmarks.scenarios.memory import MEMORY
from benchmarks.scenarios.month import MONTH
from benchmarks.scenarios.one_way import CONTEXT, ONE_WAY
from benchmarks.scenarios.pipeline import PIPELINE
from benchmarks.scenarios.starting import STARTING
from benchmarks.scenarios.topic import TOPIC
from benchmarks.scenarios.tracing import TRACING

__all__ = ["SCENARIOS"]

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        ONE_WAY,
        CONTEXT,
        ASKING,
        FAN_OUT,
        TOPIC,
        PIPELINE,
        DEFERRED,
        DURABLE,
        STARTING,
        MEMORY,
        KEYED_MEMORY,
        TRACING,
        MANY_ACTORS,
        KEYED,
        MONTH,
        *PEERS,
    )
}
"""By name, in the order in which they are run and shown; the peers last."""
