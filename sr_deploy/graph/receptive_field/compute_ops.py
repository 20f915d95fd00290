"""Receptive fields of nodes that compute: each output index depends on input indices around one position."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sr_deploy.graph.load import read_integer, read_integers, read_text
from sr_deploy.graph.receptive_field.field import (
    AxisField,
    AxisFields,
    NodeContext,
    UnknownReceptiveFieldError,
    gather,
    gather_window,
    union,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import NodeProto


def propagate_elementwise(context: NodeContext) -> AxisFields:
    """Each output index depends on that index of every input; axes are aligned from the last."""
    rank = len(context.shape(context.node.output[0]))
    result: list[AxisField | None] = [None] * rank
    for name in context.node.input:
        fields = context.known.get(name, ())
        for axis, field in enumerate(fields, rank - len(fields)):
            result[axis] = union(result[axis], field)
    return tuple(result)


def propagate_window(context: NodeContext) -> AxisFields:
    """Convolution and pooling: each output index depends on a window of the input."""
    node, fields = context.node, context.fields()
    before, after = context.shape(node.input[0])[2:], context.shape(node.output[0])[2:]
    kernel = read_integers(node, "kernel_shape", ())
    if not kernel:
        weight = node.input[3] if node.op_type == "QLinearConv" else node.input[1]
        kernel = context.shape(weight)[2:]
    ones, zeros = (1,) * len(kernel), (0,) * len(kernel)
    strides = read_integers(node, "strides", ones)
    dilations = read_integers(node, "dilations", ones)
    pads = read_integers(node, "pads", zeros * 2)[: len(kernel)]
    mode = read_text(node, "auto_pad", "NOTSET")
    result: list[AxisField | None] = [None, None]
    for axis, field in enumerate(fields[2:]):
        context.budget.spend(kernel[axis] * after[axis])
        effective_kernel = dilations[axis] * (kernel[axis] - 1) + 1
        pad = pads[axis]
        if mode.startswith("SAME"):
            total = max((after[axis] - 1) * strides[axis] + effective_kernel - before[axis], 0)
            pad = total // 2 if mode == "SAME_UPPER" else total - total // 2
        elif mode == "VALID":
            pad = 0
        first = np.arange(after[axis]) * strides[axis] - pad
        result.append(None if field is None else gather_window(field, first, kernel[axis], dilations[axis]))
    return tuple(result)


def propagate_transposed(context: NodeContext) -> AxisFields:
    """Transposed convolution: input index i writes to i * stride - pad + tap * dilation."""
    node, fields = context.node, context.fields()
    before, after = context.shape(node.input[0])[2:], context.shape(node.output[0])[2:]
    kernel = read_integers(node, "kernel_shape", ()) or context.shape(node.input[1])[2:]
    ones, zeros = (1,) * len(kernel), (0,) * len(kernel)
    strides = read_integers(node, "strides", ones)
    dilations = read_integers(node, "dilations", ones)
    extra = read_integers(node, "output_padding", zeros)
    pads = read_integers(node, "pads", zeros * 2)[: len(kernel)]
    mode = read_text(node, "auto_pad", "NOTSET")
    fixed = mode.startswith("SAME") or bool(read_integers(node, "output_shape", ()))
    result: list[AxisField | None] = [None, None]
    for axis, field in enumerate(fields[2:]):
        context.budget.spend(kernel[axis] * after[axis])
        stride, pad = strides[axis], pads[axis]
        if fixed:
            effective_kernel = dilations[axis] * (kernel[axis] - 1) + 1
            total = stride * (before[axis] - 1) + extra[axis] + effective_kernel - after[axis]
            pad = total - total // 2 if mode != "SAME_UPPER" else total // 2
        taps = []
        for tap in range(kernel[axis]):
            source = np.arange(after[axis]) + pad - tap * dilations[axis]
            taps.append(np.where(source % stride == 0, source // stride, -1))
        result.append(None if field is None else gather(field, taps))
    return tuple(result)


def propagate_resize(context: NodeContext) -> AxisFields:
    """Each output index depends on the one, two or four nearest input indices along each axis."""
    node = context.node
    before, after = context.shape(node.input[0]), context.shape(node.output[0])
    mode = read_text(node, "mode", "nearest")
    fields = context.fields()
    return tuple(
        field if field is None or old == new else gather(field, _resize_taps(node, mode, old, new))
        for field, old, new in zip(fields, before, after, strict=True)
    )


def _resize_taps(node: NodeProto, mode: str, old: int, new: int) -> list[NDArray[np.int64]]:
    """Where each output index of a Resize reads, in integers: position = numerator / denominator."""
    where = read_text(
        node, "coordinate_transformation_mode", "asymmetric" if node.op_type == "Upsample" else "half_pixel"
    )
    index = np.arange(new, dtype=np.int64)
    if where == "align_corners":
        numerator, denominator = index * (old - 1), max(new - 1, 1)
    elif where == "asymmetric":
        numerator, denominator = index * old, new
    elif where in ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric"):
        numerator, denominator = (2 * index + 1) * old - new, 2 * new
    else:
        raise UnknownReceptiveFieldError(f"Resize with {where} is not supported")
    floor = numerator // denominator
    ceiling = -(-numerator // denominator)
    if mode == "nearest":
        rounding = read_text(node, "nearest_mode", "floor" if node.op_type == "Upsample" else "round_prefer_floor")
        nearest = {
            "floor": floor,
            "ceil": ceiling,
            "round_prefer_floor": -((denominator - 2 * numerator) // (2 * denominator)),
            "round_prefer_ceil": (2 * numerator + denominator) // (2 * denominator),
        }[rounding]
        return [np.clip(nearest, 0, old - 1)]
    if mode == "linear":
        if read_integer(node, "antialias", 0) and new < old:
            raise UnknownReceptiveFieldError("Resize with antialias is not supported")
        return [np.clip(floor, 0, old - 1), np.clip(ceiling, 0, old - 1)]
    if mode == "cubic" and not read_integer(node, "antialias", 0):
        return [np.clip(floor + offset, 0, old - 1) for offset in (-1, 0, 1, 2)]
    raise UnknownReceptiveFieldError(f"Resize with mode {mode} is not supported")


def propagate_depth_to_space(context: NodeContext) -> AxisFields:
    """A pixel shuffle: each index becomes as many as the block has."""
    block = read_integer(context.node, "blocksize", 1)
    sizes = context.shape(context.node.output[0])
    moved = [
        field if field is None else gather(field, [np.arange(sizes[axis]) // block])
        for axis, field in enumerate(context.fields()[2:], 2)
    ]
    return (None, None, *moved)


def propagate_space_to_depth(context: NodeContext) -> AxisFields:
    """A pixel-unshuffle: each index depends on a whole block."""
    block = read_integer(context.node, "blocksize", 1)
    sizes = context.shape(context.node.output[0])
    context.budget.spend(block * sum(sizes[2:]))
    moved = [
        field if field is None else gather_window(field, np.arange(sizes[axis]) * block, block)
        for axis, field in enumerate(context.fields()[2:], 2)
    ]
    return (None, None, *moved)
