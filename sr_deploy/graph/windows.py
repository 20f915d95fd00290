"""Rules for nodes that compute: each output index sees a few input indices around one place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sr_deploy.graph.load import read_integer, read_integers, read_text
from sr_deploy.graph.spans import Span, Spans, Step, UnknownReachError, pick, unite

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import NodeProto


def follow_elementwise(step: Step) -> Spans:
    """Each output index sees that index of every input; axes are aligned from the last."""
    rank = len(step.shape(step.node.output[0]))
    united: list[Span | None] = [None] * rank
    for name in step.node.input:
        spans = step.known.get(name, ())
        for axis, span in enumerate(spans, rank - len(spans)):
            united[axis] = unite(united[axis], span)
    return tuple(united)


def follow_window(step: Step) -> Spans:
    """Convolution and pooling: each output index sees a window of the input."""
    node, spans = step.node, step.spans()
    before, after = step.shape(node.input[0])[2:], step.shape(node.output[0])[2:]
    kernel = read_integers(node, "kernel_shape", ())
    if not kernel:
        weight = node.input[3] if node.op_type == "QLinearConv" else node.input[1]
        kernel = step.shape(weight)[2:]
    ones, zeros = (1,) * len(kernel), (0,) * len(kernel)
    strides = read_integers(node, "strides", ones)
    dilations = read_integers(node, "dilations", ones)
    pads = read_integers(node, "pads", zeros * 2)[: len(kernel)]
    mode = read_text(node, "auto_pad", "NOTSET")
    followed: list[Span | None] = [None, None]
    for axis, span in enumerate(spans[2:]):
        step.budget.spend(kernel[axis] * after[axis])
        reach = dilations[axis] * (kernel[axis] - 1) + 1
        pad = pads[axis]
        if mode.startswith("SAME"):
            total = max((after[axis] - 1) * strides[axis] + reach - before[axis], 0)
            pad = total // 2 if mode == "SAME_UPPER" else total - total // 2
        elif mode == "VALID":
            pad = 0
        first = np.arange(after[axis]) * strides[axis] - pad
        taps = [first + tap * dilations[axis] for tap in range(kernel[axis])]
        followed.append(None if span is None else pick(span, taps))
    return tuple(followed)


def follow_transposed(step: Step) -> Spans:
    """Transposed convolution: input index i writes to i * stride - pad + tap * dilation."""
    node, spans = step.node, step.spans()
    before, after = step.shape(node.input[0])[2:], step.shape(node.output[0])[2:]
    kernel = read_integers(node, "kernel_shape", ()) or step.shape(node.input[1])[2:]
    ones, zeros = (1,) * len(kernel), (0,) * len(kernel)
    strides = read_integers(node, "strides", ones)
    dilations = read_integers(node, "dilations", ones)
    extra = read_integers(node, "output_padding", zeros)
    pads = read_integers(node, "pads", zeros * 2)[: len(kernel)]
    mode = read_text(node, "auto_pad", "NOTSET")
    fixed = mode.startswith("SAME") or bool(read_integers(node, "output_shape", ()))
    followed: list[Span | None] = [None, None]
    for axis, span in enumerate(spans[2:]):
        step.budget.spend(kernel[axis] * after[axis])
        stride, pad = strides[axis], pads[axis]
        if fixed:
            reach = dilations[axis] * (kernel[axis] - 1) + 1
            total = stride * (before[axis] - 1) + extra[axis] + reach - after[axis]
            pad = total - total // 2 if mode != "SAME_UPPER" else total // 2
        taps = []
        for tap in range(kernel[axis]):
            source = np.arange(after[axis]) + pad - tap * dilations[axis]
            taps.append(np.where(source % stride == 0, source // stride, -1))
        followed.append(None if span is None else pick(span, taps))
    return tuple(followed)


def follow_resize(step: Step) -> Spans:
    """Each output index sees the one, two or four nearest input indices along each side."""
    node = step.node
    before, after = step.shape(node.input[0]), step.shape(node.output[0])
    mode = read_text(node, "mode", "nearest")
    spans = step.spans()
    return tuple(
        span if span is None or old == new else pick(span, _resize_taps(node, mode, old, new))
        for span, old, new in zip(spans, before, after, strict=True)
    )


def _resize_taps(node: NodeProto, mode: str, old: int, new: int) -> list[NDArray[np.int64]]:
    """Where each output index of a Resize reads, in whole numbers: position = numerator / denominator."""
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
        raise UnknownReachError(f"Resize with {where} is not followed")
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
            raise UnknownReachError("Resize with antialias is not followed")
        return [np.clip(floor, 0, old - 1), np.clip(ceiling, 0, old - 1)]
    if mode == "cubic" and not read_integer(node, "antialias", 0):
        return [np.clip(floor + offset, 0, old - 1) for offset in (-1, 0, 1, 2)]
    raise UnknownReachError(f"Resize with mode {mode} is not followed")


def follow_depth_to_space(step: Step) -> Spans:
    """A pixel shuffle: each index becomes as many as the block has."""
    block = read_integer(step.node, "blocksize", 1)
    sizes = step.shape(step.node.output[0])
    moved = [
        span if span is None else pick(span, [np.arange(sizes[axis]) // block])
        for axis, span in enumerate(step.spans()[2:], 2)
    ]
    return (None, None, *moved)


def follow_space_to_depth(step: Step) -> Spans:
    """A pixel-unshuffle: each index sees a whole block."""
    block = read_integer(step.node, "blocksize", 1)
    sizes = step.shape(step.node.output[0])
    step.budget.spend(block * sum(sizes[2:]))
    moved = [
        span if span is None else pick(span, [np.arange(sizes[axis]) * block + tap for tap in range(block)])
        for axis, span in enumerate(step.spans()[2:], 2)
    ]
    return (None, None, *moved)
