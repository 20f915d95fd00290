"""Rules for nodes that only move values: joined, cut, padded, and axes split, merged or reordered."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sr_deploy.graph.load import read_integer, read_integers, read_text
from sr_deploy.graph.spans import Span, Spans, Step, UnknownReachError, pick, see_nothing, unite

_MAX_MERGED = 1 << 22


def follow_concat(step: Step) -> Spans:
    """Join: along an image axis one after the other, along others all together."""
    rank = len(step.shape(step.node.output[0]))
    axis = read_integer(step.node, "axis", 0) % rank
    united = list(_follow_elementwise_except(step, axis, rank))
    parts = [step.known.get(name, (None,) * rank)[axis] for name in step.node.input]
    side = next((part.side for part in parts if part is not None), None)
    if side is not None:
        lengths = [step.shape(name)[axis] for name in step.node.input]
        whole = [part or see_nothing(side, length) for part, length in zip(parts, lengths, strict=True)]
        united[axis] = Span(
            side, np.concatenate([part.low for part in whole]), np.concatenate([part.high for part in whole])
        )
    return tuple(united)


def _follow_elementwise_except(step: Step, skipped: int, rank: int) -> Spans:
    united: list[Span | None] = [None] * rank
    for name in step.node.input:
        for axis, span in enumerate(step.known.get(name, ())):
            if axis != skipped:
                united[axis] = unite(united[axis], span)
    return tuple(united)


def follow_transpose(step: Step) -> Spans:
    """Reorder the axes."""
    spans = step.spans()
    order = read_integers(step.node, "perm", tuple(reversed(range(len(spans)))))
    return tuple(spans[axis] for axis in order)


def follow_reshape(step: Step) -> Spans:
    """Axes are split and merged in groups of equal size; an image axis is followed through its group."""
    before, after = step.shape(step.node.input[0]), step.shape(step.node.output[0])
    spans = step.spans()
    followed: list[Span | None] = []
    start_old = start_new = 0
    while start_old < len(before) or start_new < len(after):
        end_old, end_new = _find_group(before, after, start_old, start_new)
        followed += _regroup(before[start_old:end_old], after[start_new:end_new], spans[start_old:end_old])
        start_old, start_new = end_old, end_new
    return tuple(followed)


def _find_group(before: tuple[int, ...], after: tuple[int, ...], start_old: int, start_new: int) -> tuple[int, int]:
    """Ends of the shortest runs of axes, old and new, that hold the same number of elements."""
    end_old, end_new = min(start_old + 1, len(before)), min(start_new + 1, len(after))
    old = before[start_old] if start_old < len(before) else 1
    new = after[start_new] if start_new < len(after) else 1
    while old != new:
        if old < new and end_old < len(before):
            old, end_old = old * before[end_old], end_old + 1
        elif new < old and end_new < len(after):
            new, end_new = new * after[end_new], end_new + 1
        else:
            raise UnknownReachError("a Reshape does not keep the number of elements")
    return end_old, end_new


def _regroup(before: Sequence[int], after: Sequence[int], spans: Sequence[Span | None]) -> list[Span | None]:
    seen = [axis for axis, span in enumerate(spans) if span is not None]
    if not seen:
        return [None] * len(after)
    if len(before) == len(after) == 1:
        return list(spans)
    size = int(np.prod(before))
    if len(seen) > 1 or not after or size > _MAX_MERGED:
        raise UnknownReachError("height and width are merged into one axis")
    axis = seen[0]
    span = spans[axis]
    assert span is not None
    index = np.arange(size).reshape(before)
    along = np.unravel_index(index.ravel(), before)[axis].reshape(tuple(after))
    # Of the new axes, one goes on carrying the span: the one that tells its indices apart best.
    candidates = []
    for new_axis in range(len(after)):
        others = tuple(other for other in range(len(after)) if other != new_axis)
        low, high = span.low[along].min(axis=others), span.high[along].max(axis=others)
        candidates.append((int((high - low).max()), new_axis, Span(span.side, low, high)))
    _, carrier, carried = min(candidates, key=lambda candidate: candidate[:2])
    return [carried if new_axis == carrier else None for new_axis in range(len(after))]


def follow_slice(step: Step) -> Spans:
    """Take every so-manieth index from a start to an end."""
    starts, ends = (_constant_list(step, index, name) for index, name in ((1, "starts"), (2, "ends")))
    axes = _constant_list(step, 3, "axes") or list(range(len(starts)))
    steps = _constant_list(step, 4, "steps") or [1] * len(starts)
    spans = list(step.spans())
    for start, end, axis, stride in zip(starts, ends, axes, steps, strict=True):
        span = spans[axis]
        if span is not None:
            chosen = np.arange(len(span.low))[slice(start, None if end < -(1 << 31) else end, stride)]
            spans[axis] = pick(span, [chosen])
    return tuple(spans)


def _constant_list(step: Step, index: int, attribute: str) -> list[int]:
    """A list that is an input in newer operator sets and an attribute in older ones."""
    value = step.constant(index)
    return list(read_integers(step.node, attribute, ())) if value is None else [int(entry) for entry in value.ravel()]


def follow_pad(step: Step) -> Spans:
    """Add indices before and after: zeros see nothing, mirrored ones what they mirror."""
    mode = read_text(step.node, "mode", "constant")
    spans = list(step.spans())
    pads = _constant_list(step, 1, "pads")
    axes = [axis % len(spans) for axis in _constant_list(step, 3, "axes")] or list(range(len(spans)))
    for position, axis in enumerate(axes):
        span, before, after = spans[axis], pads[position], pads[position + len(axes)]
        if span is not None and (before or after):
            index = np.arange(-before, len(span.low) + after)
            last = len(span.low) - 1
            if mode == "edge":
                index = np.clip(index, 0, last)
            elif mode == "reflect":
                index = last - np.abs(last - np.abs(index))
            elif mode == "wrap":
                index = index % (last + 1)
            spans[axis] = pick(span, [index])
    return tuple(spans)


def follow_squeeze(step: Step) -> Spans:
    """Remove axes of one element."""
    spans = step.spans()
    axes = [axis % len(spans) for axis in _constant_list(step, 1, "axes")]
    axes = axes or [axis for axis, size in enumerate(step.shape(step.node.input[0])) if size == 1]
    return tuple(span for axis, span in enumerate(spans) if axis not in axes)


def follow_unsqueeze(step: Step) -> Spans:
    """Insert axes of one element."""
    rank = len(step.shape(step.node.output[0]))
    axes = {axis % rank for axis in _constant_list(step, 1, "axes")}
    remaining = iter(step.spans())
    return tuple(None if axis in axes else next(remaining) for axis in range(rank))


def follow_split(step: Step) -> Spans:
    """Part along the channels: each part sees what the whole saw."""
    spans = step.spans()
    if spans[read_integer(step.node, "axis", 0)] is not None:
        raise UnknownReachError("a Split of the image's sides is not followed")
    return spans
