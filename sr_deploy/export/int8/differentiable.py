"""An FP32 graph in PyTorch, so that gradients flow through it: as it is, or with convolutions quantized.

Quantized convolutions multiply integers, which BF16 holds as exactly as FP32 does up to 256, or E4M3 numbers, of
which it holds all; their sums are scaled afterwards. So a CPU with BF16 instructions computes what INT8 or FP8 will,
but for the rounding of results.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sr_deploy.arch.quantized import round_to_levels
from sr_deploy.export.int8.joins import find_parts, list_joined
from sr_deploy.export.int8.operators import OPERATORS, convolve, is_bilinear
from sr_deploy.graph.load import find_input_output

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


@dataclass(frozen=True)
class Quantized:
    """What a quantized convolution computes with; gradients flow to all of them that require one."""

    step: Tensor
    """Of its data input; a scalar."""
    weight: Tensor
    """Numbers of the format, output channels x input channels x height x width."""
    weight_step: Tensor
    """One for each output channel, or a scalar."""
    bias: Tensor | None
    """One for each output channel."""


OnConvolution = Callable[["NodeProto", Mapping[str, Any], Tensor, Tensor], Tensor]


class DifferentiableGraph:
    """Runs a graph on N x C x H x W tensors."""

    def __init__(self, model: ModelProto, dtype: torch.dtype, *, in_fp8: bool = False) -> None:
        """Read the weights.

        Args:
            model: FP32, one image in and one out.
            dtype: what is computed in.
            in_fp8: whether feature maps are quantized to E4M3; False: to INT8.

        Raises:
            UnsupportedGraphError: a node that PyTorch is not told how to compute here.
        """
        import onnx

        self._nodes = list(model.graph.node)
        self._producers = {name: node for node in self._nodes for name in node.output}
        source, target = find_input_output("the graph", model)
        self._input, self._output = source.name, target.name
        self._attributes = {
            id(node): {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute} for node in self._nodes
        }
        self._constants: dict[str, Tensor] = {}
        for tensor in model.graph.initializer:
            values = torch.from_numpy(np.array(onnx.numpy_helper.to_array(tensor)))
            self._constants[tensor.name] = values.to(dtype) if values.is_floating_point() else values
        self._dtype, self._in_fp8 = dtype, in_fp8
        for node in self._nodes:
            if not self._is_known(node):
                raise UnsupportedGraphError(node.op_type)

    def run(
        self,
        lr_NCHW: Tensor,
        layers: Mapping[str, Quantized] | None = None,
        on_convolution: OnConvolution | None = None,
    ) -> Tensor:
        """Compute the output in the type of the graph, not clamped.

        Args:
            lr_NCHW: [0, 1].
            layers: convolutions to quantize, by node; convolutions that share a feature map share its step.
            on_convolution: given each float convolution, its attributes, its data and its result; what it returns takes
                the place of the result.
        """
        layers = layers or {}
        values = {self._input: lr_NCHW.to(self._dtype)}
        levels: dict[str, Tensor] = {}
        for node in self._list_needed(layers):
            data = [values.get(name, self._constants.get(name)) for name in node.input]
            attributes = self._attributes[id(node)]
            if node.op_type != "Conv":
                result = OPERATORS[node.op_type](attributes, data)
            elif node.name in layers:
                layer = layers[node.name]
                read = self._quantize(node.input[0], layer.step, values, levels)
                result = convolve(attributes, [read, layer.weight.to(self._dtype), None])
                scale = (layer.step * layer.weight_step).detach().reshape(1, -1, 1, 1)
                result = result * scale.to(self._dtype)
                if layer.bias is not None:
                    result = result + layer.bias.reshape(1, -1, 1, 1).to(self._dtype)
            else:
                plain = convolve(attributes, [values[node.input[0]], *data[1:]])
                image = values[node.input[0]]
                result = on_convolution(node, attributes, image, plain) if on_convolution else plain
            values.update(zip(node.output, result if isinstance(result, tuple) else (result,), strict=False))
        return values[self._output]

    def _quantize(self, name: str, step: Tensor, values: Mapping[str, Tensor], levels: dict[str, Tensor]) -> Tensor:
        if name not in levels:
            node = self._producers.get(name)
            joined = list_joined(node)
            if node is not None and joined:
                parts = [self._quantize(part, step, values, levels) for part in joined]
                rest = [self._constants.get(one) for one in node.input[len(parts) :]]
                levels[name] = OPERATORS[node.op_type](self._attributes[id(node)], [*parts, *rest])
            else:
                levels[name] = round_to_levels(values[name], step, in_fp8=self._in_fp8)
        return levels[name]

    def _list_needed(self, layers: Mapping[str, Quantized]) -> Sequence[NodeProto]:
        """Nodes that are computed as floats: without concatenations that quantized convolutions alone read."""
        wanted = {self._output}
        needed = []
        for node in reversed(self._nodes):
            if wanted.isdisjoint(node.output):
                continue
            needed.append(node)
            wanted.update(find_parts(self._producers, node.input[0]) if node.name in layers else node.input)
        return needed[::-1]

    def _is_known(self, node: NodeProto) -> bool:
        attributes = self._attributes[id(node)]
        if node.op_type == "Conv":
            padded = attributes.get("auto_pad", b"NOTSET") == b"NOTSET"
            return padded and len(attributes.get("kernel_shape", (3, 3))) == 2
        if node.op_type == "Resize":
            told = bool(list_joined(node)) or is_bilinear(attributes)
            return told and len(node.input) == 3 and self._is_whole_scale(node.input[2])
        return node.op_type in OPERATORS

    def _is_whole_scale(self, name: str) -> bool:
        scales = self._constants.get(name)
        if scales is None or len(scales) != 4:
            return False
        return bool((scales == scales.round()).all() and (scales[:2] == 1).all())


class UnsupportedGraphError(Exception):
    """An operator that is not computed here; its name is the message."""
