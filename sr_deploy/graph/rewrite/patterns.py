"""Nodes read as what they mean: a convolution with its numbers, an enlargement, a pixel shuffle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from sr_deploy.graph.load import read_integer, read_integers, read_text
from sr_deploy.graph.rewrite.edit import EditableGraph

Weights = NDArray[np.float32]

UNARY = ("LeakyRelu", "Relu", "Sigmoid", "Tanh", "Elu", "HardSigmoid", "HardSwish", "Softplus", "Abs", "Neg", "Exp")
"""They take each element for itself, so that they commute with nodes that only move elements."""


@dataclass(frozen=True)
class Conv:
    """A two-dimensional convolution whose weight and bias are constants."""

    node: onnx.NodeProto
    """Where it was read from."""
    weight: Weights
    """Output channels x input channels of a group x kernel height x kernel width."""
    bias: Weights | None
    """One for each output channel."""
    strides: tuple[int, int] = (1, 1)
    """Along height and width."""
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Zeros around the input: top, left, bottom, right."""
    dilations: tuple[int, int] = (1, 1)
    """Along height and width."""
    group: int = 1
    """Channels are convolved in this many separate groups."""

    @property
    def is_plain(self) -> bool:
        """Whether it has one group, stride 1 and no dilation."""
        return self.group == 1 and self.strides == (1, 1) and self.dilations == (1, 1)

    @property
    def keeps_sides(self) -> bool:
        """Whether its result has the height and the width of its input."""
        spans = [dilation * (side - 1) for dilation, side in zip(self.dilations, self.weight.shape[2:], strict=True)]
        top, left, bottom, right = self.pads
        return self.strides == (1, 1) and [top + bottom, left + right] == spans


def read_conv(graph: EditableGraph, node: onnx.NodeProto | None) -> Conv | None:
    """What a Conv node computes; None where it is not two-dimensional, not FP32, or its numbers are not constants."""
    if node is None or node.op_type != "Conv":
        return None
    weight = graph.weights(node.input[1])
    if weight is None or weight.ndim != 4:
        return None
    bias = None
    if len(node.input) > 2 and node.input[2]:
        bias = graph.weights(node.input[2])
        if bias is None or bias.shape != weight.shape[:1]:
            return None
    down, right = read_integers(node, "strides", (1, 1))
    tall, wide = read_integers(node, "dilations", (1, 1))
    conv = Conv(node, weight, bias, (down, right), (0,) * 4, (tall, wide), read_integer(node, "group", 1))
    pads = _read_pads(node, conv)
    return None if pads is None else replace(conv, pads=pads)


def _read_pads(node: onnx.NodeProto, conv: Conv) -> tuple[int, int, int, int] | None:
    mode = read_text(node, "auto_pad", "NOTSET")
    if mode == "VALID":
        return (0, 0, 0, 0)
    if mode == "NOTSET":
        top, left, bottom, right = read_integers(node, "pads", (0, 0, 0, 0))
        return (top, left, bottom, right)
    if conv.strides != (1, 1):
        return None  # depends on the size of the input
    tall, wide = (d * (side - 1) for d, side in zip(conv.dilations, conv.weight.shape[2:], strict=True))
    low = (tall // 2, wide // 2)
    high = (tall - tall // 2, wide - wide // 2)
    return (*low, *high) if mode == "SAME_UPPER" else (*high, *low)


def write_conv(graph: EditableGraph, conv: Conv, source: str, result: str) -> onnx.NodeProto:
    """A node for `conv`, whose weight and bias are stored anew under the names that the old ones had."""
    old = conv.node
    inputs = [source, graph.add_constant(conv.weight, old.input[1])]
    if conv.bias is not None:
        hint = old.input[2] if len(old.input) > 2 and old.input[2] else f"{old.input[1]}.bias"
        inputs.append(graph.add_constant(conv.bias, hint))
    return make_node(
        graph,
        "Conv",
        inputs,
        result,
        kernel_shape=conv.weight.shape[2:],
        strides=conv.strides,
        pads=conv.pads,
        dilations=conv.dilations,
        group=conv.group,
    )


def make_node(
    graph: EditableGraph, op_type: str, inputs: Sequence[str], result: str, **attributes: int | str | Sequence[int]
) -> onnx.NodeProto:
    """A node of ONNX's own with one result, and a name of its own."""
    node = helper.make_node(op_type, list(inputs), [result], name=graph.new_name(f"{result}/{op_type}"))
    node.attribute.extend(helper.make_attribute(name, value) for name, value in sorted(attributes.items()))
    return node


def repeat_node(graph: EditableGraph, node: onnx.NodeProto, inputs: Sequence[str], result: str) -> onnx.NodeProto:
    """A node with the operator and the attributes of another."""
    made = make_node(graph, node.op_type, inputs, result)
    made.attribute.extend(node.attribute)
    return made


def read_enlargement(graph: EditableGraph, node: onnx.NodeProto | None) -> int | None:
    """By how much a Resize or Upsample repeats each pixel along both sides; None for everything else it can do."""
    if node is None or node.op_type not in ("Resize", "Upsample") or read_text(node, "mode", "nearest") != "nearest":
        return None
    factor = _read_factor(graph, node)
    if factor is None or factor < 2 or read_integers(node, "axes", ()):
        return None
    if node.op_type == "Upsample":
        return factor
    where = read_text(node, "coordinate_transformation_mode", "half_pixel")
    rounding = read_text(node, "nearest_mode", "round_prefer_floor")
    # Output o lies at o / factor, or at (o + 1/2) / factor - 1/2, which is never half-way for an even factor.
    if where == "asymmetric" and rounding == "floor":
        return factor
    if where in ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric") and rounding.startswith("round"):
        return factor if factor % 2 == 0 else None
    return None


def _read_factor(graph: EditableGraph, node: onnx.NodeProto) -> int | None:
    place = {"Upsample": 1}.get(node.op_type, 2)
    if len(node.input) > 3 and node.input[3]:
        return None  # sizes, not scales
    if len(node.input) <= place or not node.input[place]:
        return None
    scales = graph.constant(node.input[place])
    if scales is None or scales.shape != (4,):
        return None
    n, c, tall, wide = (float(scale) for scale in scales)
    return int(tall) if n == c == 1 and tall == wide and tall.is_integer() else None


@dataclass(frozen=True)
class Shuffle:
    """A pixel shuffle."""

    block: int
    """Pixels of the result per pixel of the input along a side."""
    mode: str
    """`CRD`: channel c * r^2 + i * r + j is pixel (i, j) of channel c. `DCR`: channel (i * r + j) * C + c is."""


def read_shuffle(node: onnx.NodeProto | None) -> Shuffle | None:
    """What a DepthToSpace node does."""
    if node is None or node.op_type != "DepthToSpace":
        return None
    return Shuffle(read_integer(node, "blocksize", 1), read_text(node, "mode", "DCR"))


def read_scale(value: NDArray[np.generic] | None, channels: int) -> NDArray[np.float64] | None:
    """A constant as one factor for each channel of an N x C x H x W tensor; None where it is anything else.

    A scalar fits, and so does what broadcasts along N, H and W without adding an axis.
    """
    if value is None or value.dtype != np.float32 or value.ndim > 4:
        return None
    shape = (1,) * (4 - value.ndim) + value.shape
    if shape not in ((1, 1, 1, 1), (1, channels, 1, 1)):
        return None
    return np.broadcast_to(value.reshape(-1).astype(np.float64), (channels,))


def round_weights(exact: NDArray[np.float64]) -> Weights:
    """To FP32, once: what was computed in FP64 is off by half a unit in the last place at most."""
    return exact.astype(np.float32)
