"""Channels of a feature map brought to like ranges, by factors that change no output.

One scale serves all channels of an input, so the widest decides how coarse the narrow ones become. Between two
convolutions with an activation that commutes with positive factors (PReLU, LeakyReLU, ReLU), each channel c may be
divided by s_c if the weights that read it are multiplied by s_c:

    W2 act(W1 x + b1) = (W2 diag(s)) act(diag(1/s) (W1 x + b1))

up to the rounding of FP32. The factors share the spread between inputs and weights, which have a scale for each output
channel anyway (Nagel et al. 2019; Xiao et al. 2022):

    s_c = max |x_c|^0.6 / max |w_c|^0.4
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sr_deploy.errors import GraphError
from sr_deploy.export.int8.calibration import Inputs
from sr_deploy.export.int8.execute import add_node, give_out, open_graph
from sr_deploy.export.int8.placement import Placement
from sr_deploy.graph.load import read_integer

if TYPE_CHECKING:
    import onnx

_COMMUTING = frozenset({"PRelu", "LeakyRelu", "Relu"})
_BALANCE = 0.6
"""1 would make all channels of the input equal, 0 all columns of the weight. Measured on a compact network: 0.5 and 0.7
are worse."""
_MOST = 64.0
"""Weights and inputs stay within so many times what they were."""
_LEAST = 1e-9

Factors = dict[str, tuple[float, ...]]
"""s_c for each channel, numbers of FP32, by the feature map that is divided."""


@dataclass(frozen=True)
class _Link:
    """Two convolutions of which only the second reads the first's feature map."""

    data: str
    before: onnx.NodeProto
    after: onnx.NodeProto


def find_factors(model: onnx.ModelProto, placement: Placement, inputs: Inputs, engine: str) -> Factors:
    """Measure the channels of every feature map that can be equalized, and choose the factors."""
    import onnx

    links = [link for link in _find_links(model.graph) if link.data in {one.data for one in placement.candidates}]
    if not links:
        return {}
    watched = copy.deepcopy(model)
    watched.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0, 2, 3], np.int64), "channel.axes"))
    for link in links:
        magnitude, channels = f"{link.data}.magnitude", f"{link.data}.channels"
        add_node(watched.graph, "Abs", [link.data], magnitude)
        add_node(watched.graph, "ReduceMax", [magnitude, "channel.axes"], channels, keepdims=0)
        give_out(watched.graph, channels)
    run = open_graph(watched, engine)
    greatest: dict[str, NDArray[np.float32]] = {}
    for lr in inputs():
        results = run(lr)
        for link in links:
            seen = results[f"{link.data}.channels"]
            greatest[link.data] = np.maximum(greatest.get(link.data, np.zeros_like(seen)), seen)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    return {
        link.data: choose_factors(greatest[link.data], onnx.numpy_helper.to_array(weights[link.after.input[1]]))
        for link in links
    }


def choose_factors(greatest: NDArray[np.float32], weight: NDArray[np.float32]) -> tuple[float, ...]:
    """The factor of each channel, their geometric mean about 1.

    Args:
        greatest: magnitude of each channel of the feature map.
        weight: that reads it, output channels x channels x height x width.
    """
    read_with = np.abs(weight).max(axis=(0, 2, 3))
    alive = (greatest > _LEAST) & (read_with > _LEAST)
    if not alive.any():
        return (1.0,) * len(greatest)
    logarithm = _BALANCE * np.log(np.maximum(greatest, _LEAST)) - (1 - _BALANCE) * np.log(np.maximum(read_with, _LEAST))
    centered = np.where(alive, logarithm - logarithm[alive].mean(), 0.0)
    factors = np.clip(np.exp(centered), 1 / _MOST, _MOST).astype(np.float32)
    return tuple(float(one) for one in factors)


def apply_factors(model: onnx.ModelProto, factors: Mapping[str, Sequence[float]]) -> onnx.ModelProto:
    """A copy of an FP32 graph with these feature maps divided, and what reads them multiplied: the same function.

    Feature maps that are not between two such convolutions are left as they are.

    Raises:
        GraphError: a feature map has another number of channels, or a factor is not positive.
    """
    equal = copy.deepcopy(model)
    tensors = {tensor.name: tensor for tensor in equal.graph.initializer}
    for link in _find_links(equal.graph):
        values = factors.get(link.data)
        if values is None:
            continue
        factor = np.asarray(values, np.float32)
        channels = tensors[link.after.input[1]].dims[1]
        if factor.shape != (channels,) or not ((factor > 0) & np.isfinite(factor)).all():
            raise GraphError(f"the factors of {link.data!r} are not {channels} positive numbers, one for each channel")
        _multiply(tensors[link.before.input[1]], np.reciprocal(factor).reshape(-1, 1, 1, 1))
        if len(link.before.input) > 2 and link.before.input[2]:
            _multiply(tensors[link.before.input[2]], np.reciprocal(factor))
        _multiply(tensors[link.after.input[1]], factor.reshape(1, -1, 1, 1))
    return equal


def _find_links(graph: onnx.GraphProto) -> list[_Link]:
    producers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {value.name: [] for value in graph.output}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {value.name for value in graph.output}
    constants = {tensor.name for tensor in graph.initializer}

    def is_private(name: str) -> bool:
        return name not in outputs and len(readers[name]) == 1

    def is_fixed(conv: onnx.NodeProto | None) -> bool:
        """A convolution in one group whose numbers are constants of its own."""
        if conv is None or conv.op_type != "Conv":
            return False
        alone = all(name in constants and len(readers[name]) == 1 for name in conv.input[1:] if name)
        return alone and read_integer(conv, "group", 1) == 1

    links = []
    for after in graph.node:
        data = after.input[0] if after.op_type == "Conv" else ""
        before = producers.get(data)
        if before is not None and before.op_type in _COMMUTING and is_private(data):
            data_inside = before.input[0]
            before = producers.get(data_inside) if is_private(data_inside) else None
        if before is not None and is_private(data) and is_fixed(before) and is_fixed(after):
            links.append(_Link(data, before, after))
    return links


def _multiply(tensor: onnx.TensorProto, factor: NDArray[np.float32]) -> None:
    import onnx

    product = onnx.numpy_helper.to_array(tensor) * factor
    tensor.CopyFrom(onnx.numpy_helper.from_array(product.astype(np.float32), tensor.name))
