"""Sampling first: the SDK's own samplers, evaluated in place.

A known sampler says yes to a trace when the low 64 bits of its id are below a bound: all of them for ALWAYS_ON, none for
ALWAYS_OFF, a share for TraceIdRatioBased.  ParentBased picks one of five such bounds by what it knows of the parent.  For a
new root the id is drawn only once it has been chosen: `draw` says how many deliveries to let pass, which is the same chance
for each and costs one subtraction per message.  Any other sampler is asked through its API for every delivery.
"""

import math
import random
from typing import Any, Final

from msgspec import Struct
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, ParentBasedTraceIdRatio, TraceIdRatioBased

__all__ = ["ALL", "Rule", "rule_of"]

ALL: Final = 1 << 64


class Rule(Struct, frozen=True):
    """What a known sampler does: a bound for a new root, and for each kind of parent."""

    root: int
    remote_sampled: int
    remote_unsampled: int
    local_sampled: int
    local_unsampled: int

    def draw(self) -> float:
        """Return how many new roots to let pass until the next chosen one."""
        if self.root >= ALL:
            return -math.inf
        if self.root <= 0:
            return math.inf
        # Geometric: the number of failures before the first success of independent trials.
        return float(int(math.log(1.0 - random.random()) / math.log1p(-self.root / ALL)))  # noqa: S311

    def root_id(self, *, chosen: bool) -> int:
        """Return a trace id that this rule's root says yes to, or no."""
        low, width = (0, self.root) if chosen else (self.root, ALL - self.root)
        if not width:  # It was chosen for another reason than by this rule.
            low, width = 0, ALL
        return (random.getrandbits(64) << 64 | low + (random.getrandbits(64) * width >> 64)) or 1

    def follows(self, trace_id: int, *, sampled: bool, remote: bool) -> bool:
        """Decide on the child of a parent."""
        if remote:
            bound = self.remote_sampled if sampled else self.remote_unsampled
        else:
            bound = self.local_sampled if sampled else self.local_unsampled
        return trace_id % ALL < bound


def rule_of(sampler: Any, ids: Any) -> Rule | None:
    """Return what a sampler does, or None if it has to be asked: it is not the SDK's own, or the ids are not random."""
    if type(ids) is not RandomIdGenerator:
        return None
    # ParentBased keeps its samplers to itself; should their names change, it is asked like any other.
    if type(sampler) in (ParentBased, ParentBasedTraceIdRatio):
        names = ("_root", "_remote_parent_sampled", "_remote_parent_not_sampled")
        names += ("_local_parent_sampled", "_local_parent_not_sampled")
        bounds = [_bound(getattr(sampler, name, None)) for name in names]
    else:
        bounds = [_bound(sampler)] * 5
    known = [bound for bound in bounds if bound is not None]
    return Rule(*known) if len(known) == len(bounds) else None


def _bound(sampler: Any) -> int | None:
    if sampler is ALWAYS_ON:
        return ALL
    if sampler is ALWAYS_OFF:
        return 0
    return sampler.bound if type(sampler) is TraceIdRatioBased else None
