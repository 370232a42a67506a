"""Cancellations inside exception groups: trio's nurseries wrap what leaves them, cancellations too."""

from typing import cast

import anyio

__all__ = ["without_cancellation"]


def without_cancellation(error: BaseException) -> BaseException:
    """Return what is left of a group without the cancellations in it, or a cancellation if it holds nothing else."""
    group = _as_group(error)
    if group is None:
        return error
    cancellations, rest = group.split(anyio.get_cancelled_exc_class())
    if cancellations is None:
        return error
    if rest is not None:
        return rest
    innermost: BaseException = cancellations
    while (inner := _as_group(innermost)) is not None:
        innermost = inner.exceptions[0]
    return innermost


def _as_group(error: BaseException) -> BaseExceptionGroup[BaseException] | None:
    return cast("BaseExceptionGroup[BaseException]", error) if isinstance(error, BaseExceptionGroup) else None
