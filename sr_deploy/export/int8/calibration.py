"""What calibration measures: the range of each convolution's input, and the shift that quantizing it causes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sr_deploy.errors import GraphError
from sr_deploy.export.int8.execute import add_node, give_out, open_graph
from sr_deploy.export.int8.formats import FORMATS
from sr_deploy.export.int8.insert import QuantizedConv, choose_scale, insert_quantization, quantize_weight
from sr_deploy.export.int8.joins import group_by_step
from sr_deploy.export.int8.placement import Placement
from sr_deploy.export.int8.quantization_options import Int8Options
from sr_deploy.export.int8.ranges import Range, make_range

if TYPE_CHECKING:
    import onnx

Inputs = Callable[[], Iterable[NDArray[np.float32]]]
"""Starts the stream of calibration inputs anew: 1 x C x H x W each."""

_TENSORS_AT_ONCE = 48
"""Feature maps that leave the graph together when their histograms are taken; bounds the memory of large networks."""


def measure_ranges(
    model: onnx.ModelProto, placement: Placement, inputs: Inputs, options: Int8Options, engine: str
) -> dict[str, float]:
    """The magnitude that each candidate's data input is quantized up to, by tensor.

    Where feature maps share a step (`joins`), it is that of the one that reaches farthest.

    Raises:
        GraphError: an input holds NaN or infinity.
    """
    shared = group_by_step(model, (candidate.data for candidate in placement.candidates))
    names = list(dict.fromkeys(part for parts in shared.values() for part in parts))
    whole = options.method != "max"
    size = _TENSORS_AT_ONCE if whole else len(names)
    limits: dict[str, float] = {}
    for group in (names[start : start + size] for start in range(0, len(names), size)):
        ranges = {name: make_range(options) for name in group}
        _watch(model, ranges, inputs, engine, whole=whole)
        limits |= {name: one.limit() for name, one in ranges.items()}
    for name, limit in limits.items():
        if not np.isfinite(limit):
            raise GraphError(
                f"feature map {name!r} is not a finite number on calibration photographs; the weights are bad"
            )
    return {name: max(limits[part] for part in parts) for name, parts in shared.items()}


def _watch(model: onnx.ModelProto, ranges: Mapping[str, Range], inputs: Inputs, engine: str, *, whole: bool) -> None:
    """Run the float graph with feature maps (`whole`) or their greatest magnitudes as outputs."""
    watched = copy.deepcopy(model)
    outputs = {}
    for name in ranges:
        outputs[name] = f"{name}.watched"
        if whole:
            add_node(watched.graph, "Identity", [name], outputs[name])
        else:
            add_node(watched.graph, "Abs", [name], f"{name}.magnitude")
            add_node(watched.graph, "ReduceMax", [f"{name}.magnitude"], outputs[name], keepdims=0)
        give_out(watched.graph, outputs[name])
    run = open_graph(watched, engine)
    for lr in inputs():
        results = run(lr)
        for name, one in ranges.items():
            one.add(results[outputs[name]])


def quantize_layers(
    model: onnx.ModelProto,
    placement: Placement,
    limits: Mapping[str, float],
    options: Int8Options,
    moved: Mapping[str, NDArray[np.int8]] = MappingProxyType({}),
) -> dict[str, QuantizedConv]:
    """Every candidate quantized, with its bias as it was.

    Args:
        model: the FP32 graph.
        placement: its candidates.
        limits: what each one's data input is quantized up to, by tensor.
        options: for the steps of weights, and the number format.
        moved: by how many numbers of the format rounded weights are moved, -1 to 1, by node.
    """
    import onnx

    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = {node.name: node for node in model.graph.node}
    numbers = FORMATS[options.format]
    layers = {}
    for candidate in placement.candidates:
        node = nodes[candidate.name]
        weight = onnx.numpy_helper.to_array(tensors[node.input[1]])
        quantized, scale = quantize_weight(weight, per_channel=options.per_channel, numbers=numbers)
        if candidate.name in moved:
            quantized = numbers.move(quantized, moved[candidate.name])
        bias = None
        if len(node.input) > 2 and node.input[2] in tensors:
            bias = onnx.numpy_helper.to_array(tensors[node.input[2]]).astype(np.float32)
        step = float(choose_scale(limits[candidate.data], numbers))
        layers[candidate.name] = QuantizedConv(step, quantized, scale, bias)
    return layers


def measure_shifts(
    model: onnx.ModelProto, layers: Mapping[str, QuantizedConv], inputs: Inputs, engine: str
) -> dict[str, NDArray[np.float32]]:
    """By how much quantizing each convolution alone lowers the mean of each of its output channels.

    Each is fed what the float network feeds it, so that its own rounding is measured and no other's: corrections then
    hold whichever layers are quantized together.

    Returns:
        To be added to the biases, by node name.
    """
    import onnx

    twin = copy.deepcopy(model)
    insert_quantization(twin, layers)
    fed_by_floats = _feed_with_floats(model, twin, layers)
    graph = fed_by_floats.graph
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([0, 2, 3], np.int64), "shift.axes"))
    outputs = {}
    for node in model.graph.node:
        if node.name in layers:
            outputs[node.name] = f"{node.output[0]}.shift"
            difference = f"{node.output[0]}.difference"
            add_node(graph, "Sub", [node.output[0], f"{node.output[0]}.twin"], difference)
            add_node(graph, "ReduceMean", [difference, "shift.axes"], outputs[node.name], keepdims=0)
            give_out(graph, outputs[node.name])
    run = open_graph(fed_by_floats, engine)
    sums: dict[str, NDArray[np.float64]] = {}
    count = 0
    for lr in inputs():
        results = run(lr)
        count += 1
        for name, output in outputs.items():
            sums[name] = sums.get(name, np.zeros(())) + results[output].astype(np.float64)
    return {name: (total / max(count, 1)).astype(np.float32) for name, total in sums.items()}


def _feed_with_floats(
    model: onnx.ModelProto, quantized: onnx.ModelProto, layers: Mapping[str, QuantizedConv]
) -> onnx.ModelProto:
    """The float graph, and beside each of its convolutions the quantized one on the same input, named `*.twin`."""
    both = copy.deepcopy(model)
    known = {tensor.name for tensor in both.graph.initializer}
    added = {node.name for node in quantized.graph.node} - {node.name for node in model.graph.node}
    both.graph.initializer.extend(tensor for tensor in quantized.graph.initializer if tensor.name not in known)
    for node in quantized.graph.node:
        if node.name in added:
            both.graph.node.append(node)
        elif node.name in layers:
            twin = both.graph.node.add()
            twin.CopyFrom(node)
            twin.name = f"{node.name}.twin"
            twin.output[0] = f"{node.output[0]}.twin"
    return both


def correct_biases(
    layers: Mapping[str, QuantizedConv], shifts: Mapping[str, NDArray[np.float32]]
) -> dict[str, QuantizedConv]:
    """The same layers with the shifts added to their biases."""
    corrected = {}
    for name, layer in layers.items():
        bias = np.zeros(len(layer.weight), np.float32) if layer.bias is None else layer.bias
        corrected[name] = QuantizedConv(layer.input_scale, layer.weight, layer.weight_scale, bias + shifts[name])
    return corrected
