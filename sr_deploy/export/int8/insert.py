"""Quantization in numbers, and the nodes that stand for it.

A convolution's data input goes through QuantizeLinear and DequantizeLinear with one scale and zero point 0; its weight
is stored as numbers of 8 bit (`formats`) and comes out of a DequantizeLinear. Its bias and its result stay float:

    INT8   q(x) = clamp(round(x / s), -128, 127)         y = conv(s q(x), t q(w)) + b
    FP8    q(x) = E4M3(clamp(x / s, -448, 448))

What is concatenated or enlarged before a convolution reads it is quantized part by part in INT8 (`joins`). FP8 numbers
go through neither Concat nor Resize, by ONNX's rules and TensorRT's, so there the whole is quantized: the same numbers.

Scales are numbers that FP16 holds, so that the same arithmetic stands in an FP16 and in an FP32 graph.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sr_deploy.errors import GraphError
from sr_deploy.export.int8.formats import FORMATS, INT8, NumberFormat, find_format
from sr_deploy.export.int8.joins import list_joined
from sr_deploy.graph.change import set_nodes, sort_constants, take_name

if TYPE_CHECKING:
    import onnx

_MIN_SCALE = 2.0**-20
"""FP16 steps by 2^-24 here: a scale rounded up to it is off by a sixteenth at most."""


@dataclass(frozen=True)
class QuantizedConv:
    """Everything that replaces a float convolution."""

    input_scale: float
    """One step of the data input."""
    weight: NDArray[Any]
    """Output channels x input channels x height x width; its type is that of the number format."""
    weight_scale: NDArray[np.float32]
    """One step of the weight: for each output channel, or a scalar."""
    bias: NDArray[np.float32] | None
    """One for each output channel; None: the convolution has none."""

    @property
    def format(self) -> NumberFormat:
        """What it is quantized to."""
        return find_format(self.weight.dtype)


def choose_scale(limit: NDArray[np.float64] | float, numbers: NumberFormat = INT8) -> NDArray[np.float32]:
    """The step with which the greatest number of a format reaches `limit`, rounded up to one that FP16 holds."""
    exact = np.maximum(np.asarray(limit, np.float64) / numbers.largest, _MIN_SCALE)
    rounded = exact.astype(np.float16)
    raised = np.where(rounded.astype(np.float64) < exact, np.nextafter(rounded, np.float16(np.inf)), rounded)
    return raised.astype(np.float32)


def quantize_weight(
    weight: NDArray[np.float32], *, per_channel: bool, numbers: NumberFormat = INT8
) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Quantize symmetrically, the greatest magnitude to the greatest number of the format.

    Args:
        weight: output channels x input channels x height x width.
        per_channel: one scale for each output channel; else one in all.
        numbers: the format.

    Returns:
        The numbers, of the format's type, and their scale, of shape (output channels,) or ().
    """
    limit = np.abs(weight).max(axis=(1, 2, 3)) if per_channel else np.abs(weight).max()
    scale = choose_scale(limit.astype(np.float64), numbers)
    step = scale.reshape(-1, 1, 1, 1) if per_channel else scale
    return numbers.round(weight / step), scale


def insert_quantization(model: onnx.ModelProto, layers: Mapping[str, QuantizedConv], source: str = "the graph") -> None:
    """Quantize convolutions of a float graph, in place.

    Convolutions that read the same tensor share its QuantizeLinear. A convolution keeps its type: scales, and what its
    inputs are dequantized to, have the type of its old weight.

    Args:
        model: FP32, FP16 or both.
        layers: by name of the node, all in one number format.
        source: name of the graph, for errors.

    Raises:
        GraphError: a name that is no convolution of the graph with a constant weight.
    """
    import onnx

    graph = model.graph
    weights = {tensor.name: tensor.data_type for tensor in graph.initializer}
    formats = {layer.format.name for layer in layers.values()}
    inserter = _Inserter(graph, FORMATS[formats.pop()] if formats else INT8)
    found = set()
    for node in graph.node:
        layer = layers.get(node.name)
        if layer is not None and node.op_type == "Conv" and node.input[1] in weights:
            found.add(node.name)
            dtype = onnx.helper.tensor_dtype_to_np_dtype(weights[node.input[1]])
            data = inserter.dequantize_data(node.input[0], np.asarray(layer.input_scale, dtype))
            inserter.replace_weight(node, layer, dtype)
            node.input[0] = data
        inserter.nodes.append(node)
    missing = sorted(set(layers) - found)
    if missing:
        raise GraphError(f"{source} has no convolution {missing[0]!r} with a constant weight to quantize")
    inserter.finish()


class _Inserter:
    """Collects the nodes of the new graph in order."""

    def __init__(self, graph: onnx.GraphProto, numbers: NumberFormat) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._graph = graph
        self._taken = {tensor.name for tensor in graph.initializer} | {
            one for node in graph.node for one in node.output
        }
        self._tag, self._zero = numbers.name, take_name(f"{numbers.name}.zero", self._taken)
        self._joins = {node.output[0]: node for node in graph.node if numbers.is_moved and list_joined(node)}
        self._quantized: dict[tuple[str, float], str] = {}
        self._dequantized: dict[tuple[str, float], str] = {}
        self._scales: dict[tuple[str, float], str] = {}
        self._store(self._zero, np.zeros((), numbers.dtype))

    def dequantize_data(self, data: str, scale: NDArray[Any]) -> str:
        """Name of `data` quantized and dequantized with `scale`, a scalar of the type to come back to."""
        key = (data, float(scale))
        if key not in self._dequantized:
            quantized = self._quantize(data, scale)
            self._add("DequantizeLinear", [quantized, self._scale_of(scale), self._zero], f"{quantized}.back")
            self._dequantized[key] = f"{quantized}.back"
        return self._dequantized[key]

    def _quantize(self, data: str, scale: NDArray[Any]) -> str:
        """Quantize a tensor; of a concatenation, each part; and what is enlarged, before.

        That is the same, number by number. OpenVINO (2026.4) needs it so: it moves the quantization of a concatenation
        into the parts itself, and then cuts negative numbers off one of them.
        """
        key = (data, float(scale))
        if key in self._quantized:
            return self._quantized[key]
        count = sum(name == data for name, _ in self._quantized)
        result = self._quantized[key] = f"{data}.{self._tag}" if not count else f"{data}.{self._tag}_{count}"
        join = self._joins.get(data)
        if join is None:
            self._add("QuantizeLinear", [data, self._scale_of(scale), self._zero], result)
            return result
        parts = list_joined(join)
        whole = copy.deepcopy(join)
        whole.name, whole.output[0] = f"{join.op_type}.{result}", result
        for place, part in enumerate(parts):
            whole.input[place] = self._quantize(part, scale)
        self.nodes.append(whole)
        return result

    def _scale_of(self, scale: NDArray[Any]) -> str:
        key = (scale.dtype.name, float(scale))
        if key not in self._scales:
            self._scales[key] = take_name(f"{self._tag}.scale_{len(self._scales)}", self._taken)
            self._store(self._scales[key], scale)
        return self._scales[key]

    def replace_weight(self, node: onnx.NodeProto, layer: QuantizedConv, dtype: np.dtype[Any]) -> None:
        """Let a convolution take quantized weights, and the bias of `layer`."""
        name = f"{node.name}.weight"
        # A node of that name and a module of that name, whose weight is another one, may be in one graph.
        stored, scale, back, bias = (
            take_name(one, self._taken)
            for one in (f"{name}.{self._tag}", f"{name}.scale", f"{name}.back", f"{node.name}.bias")
        )
        self._store(stored, layer.weight)
        self._store(scale, layer.weight_scale.astype(dtype))
        axis = {"axis": 0} if layer.weight_scale.ndim else {}
        self._add("DequantizeLinear", [stored, scale], back, **axis)
        node.input[1] = back
        if layer.bias is not None:
            self._store(bias, layer.bias.astype(dtype))
            node.input[2:] = [bias]

    def _add(self, op_type: str, inputs: list[str], result: str, **attributes: int) -> None:
        import onnx

        self.nodes.append(onnx.helper.make_node(op_type, inputs, [result], name=f"{op_type}.{result}", **attributes))  # type: ignore[arg-type]

    def _store(self, name: str, value: NDArray[Any]) -> None:
        import onnx

        tensor = onnx.numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
        self._graph.initializer.append(tensor)

    def finish(self) -> None:
        """Put the nodes in place, without unused joins and constants."""
        read = {value.name for value in self._graph.output}
        nodes: list[onnx.NodeProto] = []
        for node in reversed(self.nodes):
            if node.output[0] not in self._joins or node.output[0] in read:
                read.update(node.input)
                nodes.append(node)
        set_nodes(self._graph, reversed(nodes))
        del self._graph.value_info[:]
        sort_constants(self._graph)
