"""Receptive fields of nodes that only move values: Concat, Slice, Pad, Split, and axes merged or reordered."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sr_deploy.graph.load import read_integer, read_integers, read_text
from sr_deploy.graph.receptive_field.field import (
    AxisField,
    AxisFields,
    NodeContext,
    UnknownReceptiveFieldError,
    gather,
    make_empty,
    union,
)

_MAX_MERGED = 1 << 22


def propagate_concat(context: NodeContext) -> AxisFields:
    """Join: along an image axis one after the other, along others all together."""
    rank = len(context.shape(context.node.output[0]))
    axis = read_integer(context.node, "axis", 0) % rank
    result = list(_propagate_other_axes(context, axis, rank))
    parts = [context.known.get(name, (None,) * rank)[axis] for name in context.node.input]
    image_axis = next((part.image_axis for part in parts if part is not None), None)
    if image_axis is not None:
        lengths = [context.shape(name)[axis] for name in context.node.input]
        whole = [part or make_empty(image_axis, length) for part, length in zip(parts, lengths, strict=True)]
        result[axis] = AxisField(
            image_axis, np.concatenate([part.low for part in whole]), np.concatenate([part.high for part in whole])
        )
    return tuple(result)


def _propagate_other_axes(context: NodeContext, skipped: int, rank: int) -> AxisFields:
    result: list[AxisField | None] = [None] * rank
    for name in context.node.input:
        for axis, field in enumerate(context.known.get(name, ())):
            if axis != skipped:
                result[axis] = union(result[axis], field)
    return tuple(result)


def propagate_transpose(context: NodeContext) -> AxisFields:
    """Reorder the axes."""
    fields = context.fields()
    order = read_integers(context.node, "perm", tuple(reversed(range(len(fields)))))
    return tuple(fields[axis] for axis in order)


def propagate_reshape(context: NodeContext) -> AxisFields:
    """Axes are split and merged in groups of equal size; an image axis is followed through its group."""
    before, after = context.shape(context.node.input[0]), context.shape(context.node.output[0])
    fields = context.fields()
    result: list[AxisField | None] = []
    start_old = start_new = 0
    while start_old < len(before) or start_new < len(after):
        end_old, end_new = _find_group(before, after, start_old, start_new)
        result += _regroup(before[start_old:end_old], after[start_new:end_new], fields[start_old:end_old])
        start_old, start_new = end_old, end_new
    return tuple(result)


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
            raise UnknownReceptiveFieldError("a Reshape does not keep the number of elements")
    return end_old, end_new


def _regroup(before: Sequence[int], after: Sequence[int], fields: Sequence[AxisField | None]) -> list[AxisField | None]:
    seen = [axis for axis, field in enumerate(fields) if field is not None]
    if not seen:
        return [None] * len(after)
    if len(before) == len(after) == 1:
        return list(fields)
    size = int(np.prod(before))
    if len(seen) > 1 or not after or size > _MAX_MERGED:
        raise UnknownReceptiveFieldError("height and width are merged into one axis")
    axis = seen[0]
    field = fields[axis]
    assert field is not None
    index = np.arange(size).reshape(before)
    along = np.unravel_index(index.ravel(), before)[axis].reshape(tuple(after))
    # Of the new axes, one goes on carrying the field: the one that tells its indices apart best.
    candidates = []
    for new_axis in range(len(after)):
        others = tuple(other for other in range(len(after)) if other != new_axis)
        low, high = field.low[along].min(axis=others), field.high[along].max(axis=others)
        candidates.append((int((high - low).max()), new_axis, AxisField(field.image_axis, low, high)))
    _, carrier, carried = min(candidates, key=lambda candidate: candidate[:2])
    return [carried if new_axis == carrier else None for new_axis in range(len(after))]


def propagate_slice(context: NodeContext) -> AxisFields:
    """Strided indices from a start to an end."""
    starts, ends = (_constant_list(context, index, name) for index, name in ((1, "starts"), (2, "ends")))
    axes = _constant_list(context, 3, "axes") or list(range(len(starts)))
    steps = _constant_list(context, 4, "steps") or [1] * len(starts)
    fields = list(context.fields())
    for start, end, axis, stride in zip(starts, ends, axes, steps, strict=True):
        field = fields[axis]
        if field is not None:
            chosen = np.arange(len(field.low))[slice(start, None if end < -(1 << 31) else end, stride)]
            fields[axis] = gather(field, [chosen])
    return tuple(fields)


def _constant_list(context: NodeContext, index: int, attribute: str) -> list[int]:
    """A list that is an input in newer operator sets and an attribute in older ones."""
    value = context.constant(index)
    return (
        list(read_integers(context.node, attribute, ())) if value is None else [int(entry) for entry in value.ravel()]
    )


def propagate_pad(context: NodeContext) -> AxisFields:
    """Add indices before and after: zeros depend on nothing, mirrored ones on what they mirror."""
    mode = read_text(context.node, "mode", "constant")
    fields = list(context.fields())
    pads = _constant_list(context, 1, "pads")
    axes = [axis % len(fields) for axis in _constant_list(context, 3, "axes")] or list(range(len(fields)))
    for position, axis in enumerate(axes):
        field, before, after = fields[axis], pads[position], pads[position + len(axes)]
        if field is not None and (before or after):
            index = np.arange(-before, len(field.low) + after)
            last = len(field.low) - 1
            if mode == "edge":
                index = np.clip(index, 0, last)
            elif mode == "reflect":
                index = last - np.abs(last - np.abs(index))
            elif mode == "wrap":
                index = index % (last + 1)
            fields[axis] = gather(field, [index])
    return tuple(fields)


def propagate_squeeze(context: NodeContext) -> AxisFields:
    """Remove axes of one element."""
    fields = context.fields()
    axes = [axis % len(fields) for axis in _constant_list(context, 1, "axes")]
    axes = axes or [axis for axis, size in enumerate(context.shape(context.node.input[0])) if size == 1]
    return tuple(field for axis, field in enumerate(fields) if axis not in axes)


def propagate_unsqueeze(context: NodeContext) -> AxisFields:
    """Insert axes of one element."""
    rank = len(context.shape(context.node.output[0]))
    axes = {axis % rank for axis in _constant_list(context, 1, "axes")}
    remaining = iter(context.fields())
    return tuple(None if axis in axes else next(remaining) for axis in range(rank))


def propagate_split(context: NodeContext) -> AxisFields:
    """Split along the channels: each part has the receptive field of the whole."""
    fields = context.fields()
    if fields[read_integer(context.node, "axis", 0)] is not None:
        raise UnknownReceptiveFieldError("a Split along height or width is not supported")
    return fields
